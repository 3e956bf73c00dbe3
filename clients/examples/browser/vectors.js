// node vectors.js PATH/vectors.json: does msgpack.js read and write the protocol's example frames?

import { readFileSync } from 'node:fs';
import { isDeepStrictEqual } from 'node:util';
import { decode, encode } from './msgpack.js';

const vectors = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const count = { vectors: vectors.length, decoded: 0, identical: 0, alternative: 0, refused: 0 };
const wrong = [];
for (const { name, hex, message, expect, alternative } of vectors) {
  let value = null;
  try {
    value = decode(Buffer.from(hex, 'hex'));
  } catch {
    if (message === null && expect) count.refused++;
    else wrong.push(`${name}: not decoded`);
    continue;
  }
  if (!isDeepStrictEqual(value, message)) wrong.push(`${name}: ${JSON.stringify(value)}`);
  else count.decoded++;
  const again = Buffer.from(encode(value)).toString('hex');
  if (again === hex) count.identical++;
  else if (alternative) count.alternative++;
  else wrong.push(`${name}: encoded as ${again}`);
}
console.log(JSON.stringify({ ...count, wrong }));
process.exit(wrong.length > 0 ? 1 : 0);
