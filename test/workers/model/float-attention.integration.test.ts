// Prefill that attends by plain products over floats: what it stores, what it computes, and for whom it is built.
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { CompiledModel } from '../../../workers/messages/models.ts';
import { readAttention } from '../../../workers/model/attention-node.ts';
import { compileModel } from '../../../workers/model/compile.ts';
import { floatAttention } from '../../../workers/model/float-attention.ts';
import { nodeMessage, OnnxWriter } from '../../../workers/model/onnx-writer.ts';
import { openRows, withSession, type Rows } from '../../../workers/model/self-text.ts';
import { seededRandom, tinyTensors, TINY_CONFIG, writeSafetensors } from './checkpoint.ts';
import { temporaryFolder } from './kit.ts';

const SEED = 20261122;
const LENGTH = 48;
const root = temporaryFolder();
writeSafetensors(root, TINY_CONFIG, tinyTensors(TINY_CONFIG, 31), 'F32');
afterAll(() => fs.rmSync(root, { recursive: true }));

const compile = (
  stored: 'q8' | 'q8 in rows' | 'q4' | 'f32',
  type: 'int8' | 'float32' = 'int8',
): Promise<CompiledModel> => {
  const products = stored === 'q8 in rows' ? 'rows' : 'blocks';
  const quantization = stored === 'q8 in rows' ? 'q8' : stored;
  const kv = { type, memoryBytes: 0 };
  return compileModel({ model: root, cacheDir: path.join(root, 'cache'), maxContext: 64, quantization, kv, products });
};

function randomIds(length: number, seed = SEED): number[] {
  const random = seededRandom(seed);
  return Array.from({ length }, () => Math.floor(random() * TINY_CONFIG.vocab_size));
}

function runRows(compiled: CompiledModel, file: string, numRows: number, use: (rows: Rows) => Float32Array) {
  return withSession(file, (session) => {
    const rows = openRows(session, compiled.shape, numRows, 64);
    return { logits: use(rows), kv: rows.kv };
  });
}

/** `ids` in chunks of these lengths, one after the other; the logits are the last chunk's. */
function runChunks(compiled: CompiledModel, file: string, ids: readonly number[], lengths: readonly number[]) {
  return runRows(compiled, file, 1, (rows) => {
    let done = 0;
    let logits = new Float32Array(0);
    for (const length of lengths) {
      logits = rows.run(ids.slice(done, done + length), done, [length - 1]) as Float32Array<ArrayBuffer>;
      done += length;
    }
    return logits;
  });
}

describe('prefill that attends over floats', () => {
  it.each(['q8', 'q8 in rows', 'q4', 'f32'] as const)(
    'has a graph of its own for %s, in chunks of any length',
    async (stored) => {
      const compiled = await compile(stored);
      expect(compiled.prefillPath).not.toBe(compiled.decodePath);
      // Weights are not stored twice where prefill has the products of decoding.
      expect(fs.existsSync(`${compiled.prefillPath}.data`)).toBe(stored === 'q8' || stored === 'q4');
      const ids = randomIds(LENGTH);
      const prefill = (...lengths: number[]) => runChunks(compiled, compiled.prefillPath, ids, lengths);
      const whole = prefill(LENGTH);
      for (const lengths of [
        [2, 46],
        [17, 14, 17],
        [45, 3],
      ]) {
        expect(prefill(...lengths)).toEqual(whole);
      }
    },
  );

  it(`stores what the decode graph stores, and computes what it computes (seed ${SEED})`, async () => {
    const compiled = await compile('f32');
    const ids = randomIds(LENGTH);
    const run = (file: string) =>
      runRows(compiled, file, 1, (rows) => {
        rows.run(ids.slice(0, 30), 0, []);
        return rows.run(ids.slice(30), 30, [LENGTH - 31]);
      });
    const [expected, found] = [run(compiled.decodePath), run(compiled.prefillPath)];
    // Keys and values of the first layer: nothing was attended over yet. A sum in another order may tip a later one over.
    expect(found.kv.slice(0, 2)).toEqual(expected.kv.slice(0, 2));
    for (const [i, view] of found.kv.entries()) {
      const off = view.map((value, j) => Math.abs(value - expected.kv[i]![j]!));
      expect(Math.max(...off)).toBeLessThanOrEqual(1);
      expect(off.filter((value) => value > 0).length).toBeLessThan(view.length / 200);
    }
    const spread = Math.max(...expected.logits) - Math.min(...expected.logits);
    const worst = Math.max(...found.logits.map((value, i) => Math.abs(value - expected.logits[i]!)));
    console.log(`largest difference of logits: ${(worst / spread).toExponential(2)} of their spread`);
    expect(worst / spread).toBeLessThan(2e-3);
  });

  it(`computes over float32 KV memory what the attention kernel computes (seed ${SEED})`, async () => {
    const compiled = await compile('f32', 'float32');
    const rewritten = path.join(path.dirname(compiled.decodePath), 'rewritten.onnx');
    fs.writeFileSync(rewritten, floatAttention(fs.readFileSync(compiled.decodePath), compiled.shape, 16));
    const ids = randomIds(LENGTH);
    const run = (file: string, ...lengths: number[]) => runChunks(compiled, file, ids, lengths);
    const [expected, found] = [run(compiled.decodePath, 30, 18), run(rewritten, 30, 18)];
    for (const [i, view] of [found.logits, ...found.kv].entries()) {
      const other = [expected.logits, ...expected.kv][i]!;
      const spread = Math.max(...other) - Math.min(...other);
      const worst = Math.max(...view.map((value, j) => Math.abs(value - other[j]!)));
      expect(worst / spread).toBeLessThan(1e-5);
    }
    for (const lengths of [[48], [2, 46], [17, 14, 17], [45, 3]]) expect(run(rewritten, ...lengths)).toEqual(found);
  });

  it.each(['q8', 'q8 in rows'] as const)(
    `gives fresh prompts of one length the bits they get alone, in %s (seed ${SEED})`,
    async (stored) => {
      const compiled = await compile(stored);
      const texts = [1, 2, 3].map((row) => randomIds(20, SEED + row));
      const together = runRows(compiled, compiled.prefillPath, 3, (rows) => rows.run(texts.flat(), 0, [19, 39, 59]));
      for (const [row, text] of texts.entries()) {
        const alone = runRows(compiled, compiled.prefillPath, 1, (rows) => rows.run(text, 0, [19]));
        expect(together.logits.subarray(row * TINY_CONFIG.vocab_size, (row + 1) * TINY_CONFIG.vocab_size)).toEqual(
          alone.logits,
        );
      }
    },
  );

  it('is refused for a graph with other KV memory or layers than its shape says, and for what is no graph', async () => {
    const { decodePath, shape } = await compile('q4', 'float32');
    expect(() => floatAttention(fs.readFileSync(decodePath), { ...shape, kvType: 'int8' }, 16)).toThrow(
      'not over KV memory of int8',
    );
    expect(() => floatAttention(new Uint8Array(0), shape, 16)).toThrow('0 attention nodes in 2 layers');
    expect(() => floatAttention(new OnnxWriter(null).finish(), shape, 16)).toThrow('0 attention nodes in 2 layers');
    expect(() => floatAttention(Uint8Array.of(0x3a, 0xff), shape, 16)).toThrow('protobuf');
  });
});

describe('readAttention', () => {
  const inputs = ['qkv', '', '', 'past_k', 'past_v', 'seqlens_k', 'total_len', 'cos', 'sin'];
  const outputs = ['out', 'present_k', 'present_v'];

  it('returns names and attributes of an attention node, wherever its bytes lie', () => {
    const attributes = { num_heads: 8, scale: { float: 0.125 }, k_quant_type: 'PER_CHANNEL' };
    const bytes = nodeMessage('GroupQueryAttention', inputs, outputs, attributes, 'com.microsoft');
    // As a view into something larger, which is how a node of a file is read.
    const within = Buffer.concat([Buffer.alloc(13), bytes]).subarray(13);
    const attention = { qkv: 'qkv', pasts: ['past_k', 'past_v'], presents: ['present_k', 'present_v'] };
    expect(readAttention(within)).toEqual({ ...attention, rest: ['cos', 'sin'], output: 'out', attributes });
  });

  it('ignores other nodes, and refuses another form or an attribute it does not know', () => {
    expect(readAttention(nodeMessage('MatMul', ['a', 'b'], ['c']))).toBeNull();
    const other = nodeMessage('GroupQueryAttention', ['q', 'k', 'v', ...inputs.slice(3)], outputs);
    expect(() => readAttention(other)).toThrow('unknown form: q, k, v');
    const list = nodeMessage('GroupQueryAttention', inputs, outputs, { sizes: [1, 2] });
    expect(() => readAttention(list)).toThrow('attribute sizes of unknown type 7');
  });
});
