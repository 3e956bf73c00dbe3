// Damaged frames: whatever arrives, decode and validate answer with a documented error or a valid message, and keep
// nothing. `TRIALS=1000000 SEED=… vitest run --project unit test/protocol/fuzz.test.ts` is the full size.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, it } from 'vitest';
import { decode, encodeCopy, readFrameHead } from '../../protocol/codec.ts';
import { Limits } from '../../protocol/constants.ts';
import { ServiceError } from '../../protocol/errors.ts';
import type { ClientMessage } from '../../protocol/messages.ts';
import { MAX_ID, parseClientMessage } from '../../protocol/validate.ts';
import { clientMessage, Random } from './generate.ts';

const SEED = Number(process.env.SEED ?? 7);
const CASES = Number(process.env.TRIALS ?? 20_000);
/** What the heap may keep of all cases: less than a byte per case at full size. */
const KEPT_BYTES = 1 << 20;
const VALUES: unknown[] = [
  null,
  true,
  -1,
  0,
  1.5,
  2 ** 31,
  NaN,
  Infinity,
  -0,
  '',
  'x',
  [],
  {},
  [[]],
  { a: 1 },
  'y'.repeat(300),
];

/** Bytes changed, removed, inserted, cut or swapped. */
function damageBytes(random: Random, bytes: Uint8Array): Uint8Array {
  const result = [...bytes];
  for (let i = random.int(1, 4); i > 0; i--) {
    const at = Math.floor(random.next() * result.length);
    const byte = Math.floor(random.next() * 256);
    const kind = random.next();
    if (kind < 0.5) result[at] = byte;
    else if (kind < 0.65) result.splice(at, random.int(1, 5));
    else if (kind < 0.85) result.splice(at, 0, byte);
    else result.length = at;
  }
  return new Uint8Array(result);
}

/** One value somewhere in the message replaced, so that the frame still decodes. */
function damageValue(random: Random, message: ClientMessage): unknown {
  const copy = structuredClone(message) as unknown;
  let node = copy as Record<string, unknown>;
  for (;;) {
    const key = random.pick(Object.keys(node));
    const child = key === undefined ? null : node[key];
    const isInner = typeof child === 'object' && child !== null && Object.keys(child).length > 0;
    if (isInner && random.chance(0.7)) {
      node = child as Record<string, unknown>;
      continue;
    }
    if (key !== undefined) node[key] = random.pick(VALUES);
    return copy;
  }
}

const documented = new Set<string>(['invalid_frame', 'invalid_request', 'unsupported']);

/** As expect, for a loop of many thousand cases: expect itself would take most of the time. */
function hold(isTrue: boolean, label: string): void {
  if (!isTrue) throw new Error(label);
}

function checkParsed(value: unknown, label: string): 'ok' | 'refused' {
  const parsed = parseClientMessage(value);
  if (parsed.ok) return 'ok';
  const { error, lane, requestId } = parsed;
  hold(error instanceof ServiceError && documented.has(error.code), label);
  hold(error.code !== 'invalid_request' || typeof error.param === 'string', label);
  hold(lane >= 0 && lane <= MAX_ID, label);
  hold(requestId === null || requestId.length <= Limits.requestIdChars, label);
  return 'refused';
}

/** Bytes in use after a full collection; `gc` is got at run time, so that no flag has to be passed. */
function heapBytes(): number {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  collect();
  return process.memoryUsage().heapUsed;
}

it(`answers ${CASES} damaged frames of seed ${SEED} with documented errors only and keeps nothing`, () => {
  const random = new Random(SEED);
  const counts = { undecodable: 0, ok: 0, refused: 0 };
  const begunMs = performance.now();
  let heapAfterTenth = 0;
  for (let i = 0; i < CASES; i++) {
    // Code and tables that every use needs are there by then.
    if (i === Math.floor(CASES / 10)) heapAfterTenth = heapBytes();
    const label = `seed ${SEED}, case ${i}`;
    const message = clientMessage(random, i);
    const bytes = random.chance(0.6)
      ? damageBytes(random, encodeCopy(message))
      : encodeCopy(damageValue(random, message) as ClientMessage);
    readFrameHead(bytes);
    let value: unknown;
    try {
      value = decode(bytes);
    } catch (error) {
      hold(error instanceof ServiceError && error.code === 'invalid_frame', label);
      hold((error as ServiceError).cause === undefined, `${label}: the scan and the decoder disagree`);
      counts.undecodable++;
      continue;
    }
    counts[checkParsed(value, label)]++;
  }
  const kept = heapBytes() - heapAfterTenth;
  const seconds = (performance.now() - begunMs) / 1000;
  console.log(
    `${CASES} cases, seed ${SEED}: ${seconds.toFixed(1)} s, heap ${(kept / 1024).toFixed(0)} KiB more`,
    counts,
  );
  expect(kept).toBeLessThan(KEPT_BYTES);
  // The mutations must reach all three outcomes, else this proves nothing.
  for (const count of Object.values(counts)) expect(count).toBeGreaterThan(CASES / 20);
}, 600_000);
