// The part of MessagePack that Tokenwire uses: nil, booleans, numbers, strings, arrays, maps with string keys.

const utf8 = new TextEncoder();
// ignoreBOM: otherwise the decoder swallows a U+FEFF that begins a delta, and all offsets behind it are wrong.
const fromUtf8 = new TextDecoder('utf-8', { ignoreBOM: true });

export function encode(value) {
  const out = [];
  const scratch = new DataView(new ArrayBuffer(8));
  const put = (tag, write, size, number) => {
    out.push(tag);
    scratch[write](0, number);
    for (let i = 0; i < size; i++) out.push(scratch.getUint8(i));
  };
  const head = (length, fix, limit, tag8, tag16) => {
    if (length < limit) out.push(fix | length);
    else if (tag8 && length < 0x100) out.push(tag8, length);
    else if (length < 0x10000) put(tag16, 'setUint16', 2, length);
    else put(tag16 + 1, 'setUint32', 4, length);
  };
  const write = (v) => {
    if (v === null || v === undefined) out.push(0xc0);
    else if (typeof v === 'boolean') out.push(v ? 0xc3 : 0xc2);
    else if (typeof v === 'number') {
      if (!Number.isInteger(v) || Object.is(v, -0) || v < -0x80000000 || v > 0xffffffff) put(0xcb, 'setFloat64', 8, v);
      else if (v >= 0x10000) put(0xce, 'setUint32', 4, v);
      else if (v >= 0x100) put(0xcd, 'setUint16', 2, v);
      else if (v >= 0x80) out.push(0xcc, v);
      else if (v >= -32) out.push(v & 0xff);
      else if (v >= -0x80) put(0xd0, 'setInt8', 1, v);
      else if (v >= -0x8000) put(0xd1, 'setInt16', 2, v);
      else put(0xd2, 'setInt32', 4, v);
    } else if (typeof v === 'string') {
      const bytes = utf8.encode(v);
      head(bytes.length, 0xa0, 32, 0xd9, 0xda);
      for (const byte of bytes) out.push(byte);
    } else if (Array.isArray(v)) {
      head(v.length, 0x90, 16, 0, 0xdc);
      v.forEach(write);
    } else if (typeof v === 'object') {
      const entries = Object.entries(v).filter(([, item]) => item !== undefined); // absent: the key is left out
      head(entries.length, 0x80, 16, 0, 0xde);
      for (const [key, item] of entries) {
        write(key);
        write(item);
      }
    } else throw new TypeError(`cannot encode a ${typeof v}`);
  };
  write(value);
  return Uint8Array.from(out);
}

function refuse(why) {
  throw new RangeError(`undecodable frame: ${why}`);
}

export function decode(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  let nodes = 131072; // arrays, maps and map entries that one frame may have
  const skip = (size) => {
    at += size;
    if (at > bytes.length) refuse('it ends too early');
    return at - size;
  };
  const count = (n) => {
    if ((nodes -= n) < 0) refuse('too many parts');
  };
  const u8 = () => view.getUint8(skip(1));
  const u16 = () => view.getUint16(skip(2));
  const u32 = () => view.getUint32(skip(4));
  const exact = (big) => (Number.isSafeInteger(Number(big)) ? Number(big) : refuse('integer beyond 2^53'));
  const text = (length) => fromUtf8.decode(bytes.subarray(skip(length), at));
  const array = (length, depth) => {
    if (depth > 64) refuse('nested too deep');
    count(1);
    if (length > bytes.length - at) refuse('it ends too early'); // a forged length must not allocate
    const items = [];
    while (length-- > 0) items.push(read(depth));
    return items;
  };
  const map = (length, depth) => {
    if (depth > 64) refuse('nested too deep');
    count(1 + length);
    const object = {};
    while (length-- > 0) {
      const key = read(64);
      if (typeof key !== 'string' || key === '__proto__') refuse('bad map key');
      object[key] = read(depth);
    }
    return object;
  };
  const read = (depth) => {
    const tag = u8();
    if (tag < 0x80) return tag;
    if (tag < 0x90) return map(tag & 15, depth + 1);
    if (tag < 0xa0) return array(tag & 15, depth + 1);
    if (tag < 0xc0) return text(tag & 31);
    if (tag >= 0xe0) return tag - 256;
    switch (tag) {
      case 0xc0:
        return null;
      case 0xc2:
        return false;
      case 0xc3:
        return true;
      case 0xca:
        return view.getFloat32(skip(4));
      case 0xcb:
        return view.getFloat64(skip(8));
      case 0xcc:
        return u8();
      case 0xcd:
        return u16();
      case 0xce:
        return u32();
      case 0xcf:
        return exact(view.getBigUint64(skip(8)));
      case 0xd0:
        return view.getInt8(skip(1));
      case 0xd1:
        return view.getInt16(skip(2));
      case 0xd2:
        return view.getInt32(skip(4));
      case 0xd3:
        return exact(view.getBigInt64(skip(8)));
      case 0xd9:
        return text(u8());
      case 0xda:
        return text(u16());
      case 0xdb:
        return text(u32());
      case 0xdc:
        return array(u16(), depth + 1);
      case 0xdd:
        return array(u32(), depth + 1);
      case 0xde:
        return map(u16(), depth + 1);
      case 0xdf:
        return map(u32(), depth + 1);
      default:
        return refuse(`type 0x${tag.toString(16)}`); // binary, extensions, timestamps, 0xc1
    }
  };
  const value = read(0);
  if (at !== bytes.length) refuse('bytes follow the value');
  return value;
}
