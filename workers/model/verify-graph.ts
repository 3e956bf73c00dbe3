// Rewrites a decode graph so that one run computes several consecutive tokens of one row with the bits of single steps.
// Matrix products and norms work row by row whatever the batch; only the attention must be kept to one token at a
// time, so each attention node becomes a chain of them over the same KV memory. Called by build-entry.
import { readAttention } from './attention-node.ts';
import { GraphNames } from './graph-builder.ts';
import { DataType, nodeMessage, valueInfo } from './onnx-writer.ts';
import { bytesField, concat, copyField, readFields, text } from './protobuf.ts';

/**
 * The graph for `numTokens` tokens at a time. It names the same weights in the same data file, so it must lie beside
 * `decode`. Inputs as in GraphNames with B = numTokens rows of S = 1, but past_* are those of one slot, and
 * seqlens_k and total_len (int32 [numTokens]) hold the length before, and after, each token. Each layer has one pair of
 * outputs per token, `verifiedName`; all of them must be given the memory of the past: that is how a token finds the
 * keys and values of the tokens before it. Throws an Error when `decode` is not a graph that graph-builder made.
 */
export function verifyGraph(decode: Uint8Array, numTokens: number): Uint8Array {
  let numGraphs = 0;
  const parts: Uint8Array[] = [];
  for (const field of readFields(decode)) {
    if (field.number !== 7) parts.push(copyField(field));
    else {
      numGraphs++;
      parts.push(bytesField(7, rewriteGraph(field.bytes, numTokens)));
    }
  }
  if (numGraphs !== 1) throw new Error(`a model file with ${numGraphs} graphs`);
  return concat(parts);
}

/** Output with the keys or values of a layer after token `index` of a run. */
export function verifiedName(kind: 'k' | 'v', layer: number, index: number): string {
  return splitName(GraphNames.present(kind, layer), index);
}

function splitName(name: string, index: number): string {
  return `${name}.${index}`;
}

function rewriteGraph(graph: Uint8Array, numTokens: number): Uint8Array {
  const each = Array.from({ length: numTokens }, (_, i) => i);
  const split = (name: string): Uint8Array => {
    const outputs = each.map((i) => splitName(name, i));
    return nodeMessage('Split', [name], outputs, { axis: 0, num_outputs: numTokens });
  };
  const parts: Uint8Array[] = [split(GraphNames.lengths), split(GraphNames.longest)].map((node) => bytesField(1, node));
  for (const field of readFields(graph)) {
    const attention = field.number === 1 ? readAttention(field.bytes) : null;
    if (attention !== null) {
      const { qkv, pasts, presents, rest, output, attributes } = attention;
      parts.push(bytesField(1, split(qkv)));
      for (const i of each) {
        const past = i === 0 ? pasts : presents.map((name) => splitName(name, i - 1));
        const lengths = [GraphNames.lengths, GraphNames.longest].map((name) => splitName(name, i));
        const inputs = [splitName(qkv, i), '', '', ...past, ...lengths, ...rest];
        const outputs = [splitName(output, i), ...presents.map((name) => splitName(name, i))];
        parts.push(bytesField(1, nodeMessage('GroupQueryAttention', inputs, outputs, attributes, 'com.microsoft')));
      }
      const outputs = each.map((i) => splitName(output, i));
      parts.push(bytesField(1, nodeMessage('Concat', outputs, [output], { axis: 0 })));
    } else if (field.number === 11) {
      parts.push(bytesField(11, inputInfo(field.bytes, numTokens)));
    } else if (field.number === 12 && nameOf(field.bytes).startsWith('present_')) {
      for (const i of each) parts.push(bytesField(12, renamed(field.bytes, splitName(nameOf(field.bytes), i))));
    } else parts.push(copyField(field));
  }
  return concat(parts);
}

/** Rows become tokens of one row: only total_len has another shape than in the decode graph. */
function inputInfo(info: Uint8Array, numTokens: number): Uint8Array {
  const name = nameOf(info);
  return name === GraphNames.longest || name === GraphNames.lengths
    ? valueInfo(name, DataType.int32, [numTokens])
    : info;
}

function nameOf(info: Uint8Array): string {
  for (const field of readFields(info)) if (field.number === 1) return text(field.bytes);
  return '';
}

function renamed(info: Uint8Array, name: string): Uint8Array {
  return concat([...readFields(info)].map((field) => (field.number === 1 ? bytesField(1, name) : copyField(field))));
}
