// The protobuf wire format, as far as ONNX needs it: fields of a message in memory, and the bytes of one field.
// Used by onnx-writer (writing), align (rewriting) and onnx-reader (small messages). No schema lives here.

export const Wire = { varint: 0, fixed64: 1, bytes: 2, fixed32: 5 } as const;

/** One field of a message. Exactly one of `value` (varint) and `bytes` (all other wire types) is meaningful. */
export interface Field {
  number: number;
  wire: number;
  value: number;
  bytes: Uint8Array;
}

const NO_BYTES = new Uint8Array(0);
const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Signed 64-bit varints outside ±2^53 lose precision: nothing in a model file is that large. */
export function readVarint(bytes: Uint8Array, at: { position: number }): number {
  return decodeVarint(() => {
    const byte = bytes[at.position++];
    if (byte === undefined) throw new Error('protobuf: message ends inside a number');
    return byte;
  });
}

/** Decodes one varint from a source of bytes. Throws when it is longer than ten. */
export function decodeVarint(nextByte: () => number): number {
  // Almost all numbers of a model file are short; BigInt would cost most of the reading time.
  let result = 0;
  for (let shift = 0; shift < 28; shift += 7) {
    const byte = nextByte();
    result |= (byte & 127) << shift;
    if (byte < 128) return result;
  }
  let long = BigInt(result);
  for (let shift = 28n; shift < 70n; shift += 7n) {
    const byte = nextByte();
    long |= BigInt(byte & 127) << shift;
    if (byte < 128) return Number(BigInt.asIntN(64, long));
  }
  throw new Error('protobuf: number longer than 10 bytes');
}

/** Fields in file order; `bytes` are views into the message. Throws on anything that is not protobuf. */
export function* readFields(message: Uint8Array): Generator<Field> {
  const at = { position: 0 };
  while (at.position < message.length) {
    const key = readVarint(message, at);
    const field: Field = { number: key >>> 3, wire: key & 7, value: 0, bytes: NO_BYTES };
    if (field.wire === Wire.varint) {
      field.value = readVarint(message, at);
    } else {
      const length =
        field.wire === Wire.bytes
          ? readVarint(message, at)
          : field.wire === Wire.fixed32
            ? 4
            : field.wire === Wire.fixed64
              ? 8
              : -1;
      if (length < 0 || at.position + length > message.length) throw new Error('protobuf: field leaves its message');
      field.bytes = message.subarray(at.position, at.position + length);
      at.position += length;
    }
    yield field;
  }
}

export function text(bytes: Uint8Array): string {
  return decoder.decode(bytes);
}

/** Repeated integers: packed (one bytes field) or one varint per field. */
export function readIntegers(field: Field): number[] {
  if (field.wire === Wire.varint) return [field.value];
  const at = { position: 0 };
  const values: number[] = [];
  while (at.position < field.bytes.length) values.push(readVarint(field.bytes, at));
  return values;
}

export function concat(parts: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(parts);
}

export function varint(value: number | bigint): Uint8Array {
  let rest = BigInt.asUintN(64, BigInt(value));
  const bytes: number[] = [];
  do {
    const low = Number(rest & 127n);
    rest >>= 7n;
    bytes.push(rest > 0n ? low | 128 : low);
  } while (rest > 0n);
  return Uint8Array.from(bytes);
}

export function intField(number: number, value: number | bigint): Uint8Array {
  return concat([varint(number << 3), varint(value)]);
}

export function bytesField(number: number, content: Uint8Array | string): Uint8Array {
  const bytes = typeof content === 'string' ? encoder.encode(content) : content;
  return concat([varint((number << 3) | Wire.bytes), varint(bytes.length), bytes]);
}

export function floatField(number: number, value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setFloat32(0, value, true);
  return concat([varint((number << 3) | Wire.fixed32), bytes]);
}

/** The field again, byte for byte in meaning: for rewriting a message while keeping what one does not understand. */
export function copyField(field: Field): Uint8Array {
  if (field.wire === Wire.varint) return intField(field.number, field.value);
  if (field.wire === Wire.bytes) return bytesField(field.number, field.bytes);
  return concat([varint((field.number << 3) | field.wire), field.bytes]);
}
