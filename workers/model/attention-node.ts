// Reads the attention nodes of a graph that graph-builder made, also after ONNX Runtime optimised it.
// For verify-graph and float-attention, which put other nodes in their place.
import { GraphNames } from './graph-builder.ts';
import type { Attribute } from './onnx-writer.ts';
import { readFields, text } from './protobuf.ts';

export interface Attention {
  /** Queries, keys and values [B, S, width], packed. */
  qkv: string;
  /** KV memory: keys, values. */
  pasts: string[];
  presents: string[];
  /** Inputs after the lengths; '' where one is absent. */
  rest: string[];
  output: string;
  attributes: Record<string, Attribute>;
}

/** Null for any other node. Throws an Error when it has another form than graph-builder gives it. */
export function readAttention(node: Uint8Array): Attention | null {
  const inputs: string[] = [];
  const outputs: string[] = [];
  const attributes: Record<string, Attribute> = {};
  let op = '';
  for (const field of readFields(node)) {
    if (field.number === 1) inputs.push(text(field.bytes));
    else if (field.number === 2) outputs.push(text(field.bytes));
    else if (field.number === 4) op = text(field.bytes);
    else if (field.number === 5) Object.assign(attributes, readAttribute(field.bytes));
  }
  if (op !== 'GroupQueryAttention') return null;
  const [qkv, key, value, pastK, pastV, lengths, longest, ...rest] = inputs;
  const [output, presentK, presentV] = outputs;
  if (
    !qkv ||
    key !== '' ||
    value !== '' ||
    !pastK ||
    !pastV ||
    !output ||
    !presentK ||
    !presentV ||
    lengths !== GraphNames.lengths ||
    longest !== GraphNames.longest
  ) {
    throw new Error(`an attention node of unknown form: ${inputs.join(', ')}`);
  }
  return { qkv, pasts: [pastK, pastV], presents: [presentK, presentV], rest, output, attributes };
}

/** AttributeProto: a number, a float or a string, which is all that attention has. */
function readAttribute(message: Uint8Array): Record<string, Attribute> {
  let name = '';
  let type = 0;
  let [float, integer, string] = [0, 0, ''];
  for (const field of readFields(message)) {
    if (field.number === 1) name = text(field.bytes);
    else if (field.number === 2) float = floatOf(field.bytes);
    else if (field.number === 3) integer = field.value;
    else if (field.number === 4) string = text(field.bytes);
    else if (field.number === 20) type = field.value;
  }
  const values: Record<number, Attribute> = { 1: { float }, 2: integer, 3: string };
  const value = values[type];
  if (value === undefined) throw new Error(`attention has an attribute ${name} of unknown type ${type}`);
  return { [name]: value };
}

function floatOf({ buffer, byteOffset, byteLength }: Uint8Array): number {
  return new DataView(buffer, byteOffset, byteLength).getFloat32(0, true);
}
