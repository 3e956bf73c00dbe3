import { describe, expect, it } from 'vitest';
import { defaultSampling } from '../../protocol/sampling.ts';
import { allocateShared } from '../../src/engine/memory.ts';
import { DecodeRange } from '../../workers/decode-range.ts';
import { KvMemory } from '../../workers/kv/kv-memory.ts';
import { FAKE_SHAPE } from '../../workers/model/fake.ts';
import type { Model } from '../../workers/model/model.ts';
import { Outputs } from '../../workers/outputs.ts';
import { Sequence } from '../../workers/sequence.ts';
import { TextModel } from '../../workers/text/text-model.ts';

const ROWS = 4;
const layout = { rowsPerWorker: ROWS, numWorkers: 1, numSlots: 2 * ROWS, maxLen: 64, budgetTokens: 2 * ROWS * 64 };

/** A range with so many live rows, over a model whose likeliest token is always the letter a. */
function setUp(numSequences: number) {
  const shared = allocateShared(FAKE_SHAPE, layout, 16);
  const kv = new KvMemory(FAKE_SHAPE, layout, shared, 0, true);
  const left: [id: number, kind: string][] = [];
  const range = new DecodeRange(0, ROWS, kv, ({ id }, kind) => left.push([id, kind]));
  const logits = new Float32Array(ROWS * FAKE_SHAPE.vocabSize);
  for (let row = 0; row < ROWS; row++) logits[row * FAKE_SHAPE.vocabSize + 97] = 1;
  const model = { vocabSize: FAKE_SHAPE.vocabSize, top: null, decode: () => logits } as unknown as Model;
  const { vocabSize } = FAKE_SHAPE;
  const context = { text: TextModel.bytes(), grammars: null, vocabSize, maxLen: 64, generated: shared.generated };
  const sequences = Array.from({ length: numSequences }, (_, i) => {
    const meta = {
      id: i + 1,
      flag: i,
      choice: 0,
      logprobs: null,
      tenant: 't',
      weight: 1,
      session: '',
      class: 'chat' as const,
      toolNames: [],
      grammar: null,
      sampling: { ...defaultSampling, temperature: 0 },
      queueDeadline: Infinity,
      deadline: Infinity,
    };
    const home = ROWS + i;
    kv.reserve(home, 2);
    return new Sequence({ meta, ids: [65, 66, 67], numPrompt: 3, seed: 1, home, homeLength: 2 }, context);
  });
  for (const sequence of sequences) range.join(sequence);
  range.move(1000);
  const decode = (): number => range.decode(model, new Outputs(), null, () => undefined);
  return { range, sequences, left, decode };
}

describe('DecodeRange', () => {
  it('decodes on what is to go elsewhere until its KV is at home, all of it', () => {
    const { range, sequences, left, decode } = setUp(3);
    decode();
    expect(range.release(2)).toBe(2);
    expect([range.size, range.isReleasing, left]).toEqual([1, true, []]);
    decode();
    expect(sequences.map(({ ids }) => ids.length)).toEqual([5, 5, 5]);
    range.move(1000);
    expect(left).toEqual([
      [3, 'moved'],
      [2, 'moved'],
    ]);
    expect(sequences.slice(1).map(({ homeLength, past }) => [homeLength, past])).toEqual([
      [4, 4],
      [4, 4],
    ]);
    expect([range.size, range.isReleasing, decode()]).toEqual([1, false, 1]);
  });

  it('releases nobody twice, and says who ended meanwhile that it is done', () => {
    const { range, left } = setUp(2);
    expect([range.release(1), range.release(2), range.release(1)]).toEqual([1, 1, 0]);
    range.reap(({ id }) => (id === 2 ? 'done' : null));
    range.move(1000);
    expect(left).toEqual([
      [2, 'done'],
      [1, 'moved'],
    ]);
  });
});
