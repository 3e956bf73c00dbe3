// A model without weights, for tests: bytes in, bytes out, with all of its state in the KV memory, so that a wrong
// move, copy or slot shows as wrong text or as an exception. The next byte is a hash of the whole history; a prompt
// may script the answer or, with `faults`, order a failure:
//   !!say TEXT !!    answers TEXT         !!throw !!  the next step throws      !!abort !!  the process aborts
//   !!hang !!        the next step never returns       !!oom !!    the heap fills up
// Commands act in the first decode step; `!!prefill-throw !!` and `!!prefill-hang !!` act while prefilling.
import type { CompiledModel, FakeOptions } from '../messages/models.ts';
import type { EngineShared, SlotLayout } from '../messages/shared.ts';
import type { Model } from './model.ts';

export const FAKE_SHAPE = {
  numLayers: 1,
  numKvHeads: 1,
  headDim: 4,
  vocabSize: 260,
  maxPositions: 8192,
  kvType: 'float32',
} as const;
export const FAKE_EOS = 257;

const MARK = [33, 33]; // "!!"
const COMMANDS = ['say ', 'throw ', 'abort ', 'hang ', 'oom ', 'prefill-throw ', 'prefill-hang '] as const;
const VERIFY_SIZES = [2, 4, 8];
/** One answer in about this many bytes ends by itself. */
const MEAN_LENGTH = 150;
/** Characters of several bytes, so that detokenising is tested: 你, é, 🙂. */
const MULTI_BYTE = [
  [0xe4, 0xbd, 0xa0],
  [0xc3, 0xa9],
  [0xf0, 0x9f, 0x99, 0x82],
] as const;

/** Opens the fake model over the K buffer of its single layer: [slot][position][token, hash, position, script]. */
export function openFakeModel(compiled: CompiledModel, shared: EngineShared, layout: SlotLayout): Model {
  const options: FakeOptions = compiled.fake ?? { stepMs: 0, prefillUsPerToken: 0, verifyCost: 1, faults: false };
  if (options.dies) throw new Error('fake model: ordered to die');
  const memory = new Float32Array(shared.kv[0]!);
  const { vocabSize } = FAKE_SHAPE;
  const logits = new Float32Array(Math.max(layout.numSlots, ...VERIFY_SIZES) * vocabSize);
  const cell = (slot: number, position: number): number => (slot * layout.maxLen + position) * 4;

  function append(slot: number, position: number, token: number): void {
    const at = cell(slot, position);
    const before = cell(slot, position - 1);
    const hash = position === 0 ? 7 : memory[before + 1]!;
    memory[at] = token;
    memory[at + 1] = mix(hash, token);
    memory[at + 2] = position;
    memory[at + 3] = position === 0 ? 0 : nextScript(slot, memory[before + 3]!);
  }

  /** The script pointer is the position of the byte to be said next. */
  function nextScript(slot: number, pointer: number): number {
    return pointer > 0 && memory[cell(slot, pointer)] !== MARK[0] ? pointer + 1 : pointer;
  }

  /** Spot check that the past was copied whole: some earlier cell must hold its own position. */
  function assertPast(slot: number, past: number): void {
    if (past === 0) return;
    for (const position of [past - 1, memory[cell(slot, past - 1) + 1]! % past]) {
      if (memory[cell(slot, position) + 2] !== position) {
        throw new Error(`fake model: slot ${slot} holds no KV for position ${position} of ${past}`);
      }
    }
  }

  function writeLogits(row: number, slot: number, position: number): void {
    const at = cell(slot, position);
    const base = row * vocabSize;
    logits.fill(-20, base, base + vocabSize);
    const pointer = memory[at + 3]!;
    if (pointer > 0) {
      const said = memory[cell(slot, pointer)]!;
      logits[base + (said === MARK[0] ? FAKE_EOS : said)] = 20;
      return;
    }
    const hash = memory[at + 1]!;
    const next = continuation(memory[at]!, position > 0 ? memory[at - 4]! : 0, hash);
    logits[base + next] = 10;
    // Two runners-up, so that sampling has a choice; none inside a character.
    if (next < 128) {
      logits[base + 97 + (hash % 26)] = Math.max(logits[base + 97 + (hash % 26)]!, 9);
      logits[base + 65 + (hash % 23)] = 8;
    }
  }

  /** Runs or notes a command found in the ids; returns the position its text starts at when it is `say`. */
  function command(slot: number, length: number, phase: 'prefill' | 'decode'): number {
    for (let position = length - 1; position >= 1; position--) {
      if (memory[cell(slot, position)] !== MARK[1] || memory[cell(slot, position - 1)] !== MARK[0]) continue;
      const tail = Array.from({ length: 16 }, (_, i) => memory[cell(slot, position + 1 + i)]!);
      const text = String.fromCharCode(...tail.map((token) => token & 255));
      const found = COMMANDS.find((name) => text.startsWith(name) && position + name.length < length);
      if (!found) continue;
      if (found === 'say ') return position + 1 + found.length;
      if (options.faults && (found.startsWith('prefill-') ? 'prefill' : 'decode') === phase) fail(found);
      return 0;
    }
    return 0;
  }

  return {
    vocabSize,
    top: null,
    hookMisses: 0,
    canDecodeAlone: false,
    verifySizes: VERIFY_SIZES,
    openNext: () => false,
    verify(slot, tokens, past) {
      if (!VERIFY_SIZES.includes(tokens.length)) throw new Error(`fake model: cannot verify ${tokens.length} tokens`);
      if (past + tokens.length > layout.maxLen) throw new Error(`fake model: verifies beyond a slot, after ${past}`);
      assertPast(slot, past);
      if (options.faults) command(slot, past, 'decode');
      for (let i = 0; i < tokens.length; i++) {
        append(slot, past + i, tokens[i]!);
        writeLogits(i, slot, past + i);
      }
      spend(options.stepMs * (1 + options.verifyCost * (tokens.length - 1)));
      return logits;
    },
    decode(first, n, tokens, past) {
      for (let row = 0; row < n; row++) {
        const slot = first + row;
        const position = past[row]!;
        if (tokens[row] !== 0) assertPast(slot, position);
        append(slot, position, tokens[row]!);
        if (options.faults && tokens[row] !== 0) command(slot, position, 'decode');
        writeLogits(row, slot, position);
      }
      spend(options.stepMs);
      return logits;
    },
    prefill(slot, ids, past, wantLogits) {
      assertPast(slot, past);
      for (let i = 0; i < ids.length; i++) append(slot, past + i, ids[i]!);
      spend((options.prefillUsPerToken * ids.length) / 1000);
      const length = past + ids.length;
      const script = command(slot, length, 'prefill');
      if (!wantLogits) return undefined;
      if (script > 0) memory[cell(slot, length - 1) + 3] = script;
      writeLogits(0, slot, length - 1);
      return logits;
    },
    dispose() {},
  };
}

/** Holds the thread as a forward pass would. */
function spend(ms: number): void {
  const until = performance.now() + ms;
  while (performance.now() < until);
}

/** 24 bits, exact in a float32. */
function mix(hash: number, token: number): number {
  return (Math.imul(hash ^ (token + 1), 0x9e3779b1) >>> 8) & 0xffffff;
}

function continuation(token: number, previous: number, hash: number): number {
  for (const bytes of MULTI_BYTE) {
    const index = bytes.indexOf(token as never);
    if (index >= 0 && index < bytes.length - 1 && (index === 0 || previous === bytes[index - 1]))
      return bytes[index + 1]!;
  }
  if (hash % MEAN_LENGTH === 0) return FAKE_EOS;
  if (hash % 23 === 0) return MULTI_BYTE[hash % 3]![0];
  return hash % 5 === 0 ? 32 : 97 + (hash % 26);
}

function fail(name: string): void {
  if (name.endsWith('throw ')) throw new Error('fake model: ordered to throw');
  // process.abort is not there in worker threads.
  if (name === 'abort ') process.kill(process.pid, 'SIGABRT');
  if (name.endsWith('hang ')) for (;;) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000);
  const hoard: number[][] = [];
  for (;;) hoard.push(Array.from({ length: 1 << 16 }, (_, i) => i + hoard.length));
}
