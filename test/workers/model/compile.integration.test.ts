// The compiler end to end on tiny seeded checkpoints: every source format against the float reference, the cache's
// behaviour under damage, and two processes at once.
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { kvBytesPerToken, type CompiledModel } from '../../../workers/messages/models.ts';
import { compileModel, type CompileOptions } from '../../../workers/model/compile.ts';
import {
  tinyTensors,
  TINY_CONFIG,
  writeOnnxDirectory,
  writeSafetensors,
  type Dtype,
  type OnnxKind,
} from './checkpoint.ts';
import { temporaryFolder, worstError } from './kit.ts';

const SEED = 4711;
const root = temporaryFolder();
afterAll(() => fs.rmSync(root, { recursive: true }));

let numFolders = 0;
const folder = (): string => path.join(root, `m${++numFolders}`);

function compile(model: string, options: Partial<CompileOptions> = {}): Promise<CompiledModel> {
  return compileModel({ model, cacheDir: path.join(model, 'cache'), maxContext: 64, ...options });
}

// Tolerances as a share of the logits' spread: float32 rounding; 8-bit weights and activations; 4-bit weights.
const TOLERANCE = { f32: 1e-5, q8: 0.04, q4: 0.25 } as const;

describe('compileModel on tiny safetensors checkpoints', () => {
  const forms: [Dtype, number, boolean][] = [
    ['F32', 1, false],
    ['F16', 1, true],
    ['BF16', 1, false],
    ['F32', 3, true],
    ['BF16', 2, false],
  ];
  it.each(forms)('gives the reference’s logits for %s in %i file(s), tied head %s', async (dtype, shards, tied) => {
    const directory = folder();
    const config = { ...TINY_CONFIG, tie_word_embeddings: tied };
    writeSafetensors(directory, config, tinyTensors(config, SEED), dtype, shards);
    for (const quantization of ['f32', 'q8', 'q4'] as const) {
      const error = worstError(await compile(directory, { quantization }), directory);
      console.log(`${dtype}, ${shards} file(s), tied ${tied}, ${quantization}: ${error.toExponential(2)}`);
      expect(error).toBeLessThan(TOLERANCE[quantization]);
    }
  });

  it('honours grouped heads, a head size of its own, and other norms and rotary bases', async () => {
    const directory = folder();
    const config = {
      ...TINY_CONFIG,
      head_dim: 32,
      num_attention_heads: 6,
      num_key_value_heads: 3,
      rope_theta: 500,
      rms_norm_eps: 0.01,
    };
    writeSafetensors(directory, config, tinyTensors(config, SEED + 1), 'F32');
    expect(worstError(await compile(directory, { quantization: 'f32' }), directory)).toBeLessThan(TOLERANCE.f32);
  });
});

describe('compileModel on transformers.js directories', () => {
  const kinds: [OnnxKind, 'f32' | 'q8' | 'q4'][] = [
    ['float', 'f32'],
    ['int8', 'f32'],
    ['int8', 'q8'],
    ['uint8', 'q8'],
    ['int8-columns', 'q8'],
    ['blocks8', 'q8'],
    ['blocks4', 'q4'],
    ['blocks4-zeros', 'q8'],
  ];
  it.each(kinds)('gives the reference’s logits from %s weights, stored as %s', async (kind, quantization) => {
    const directory = folder();
    writeOnnxDirectory(directory, TINY_CONFIG, tinyTensors(TINY_CONFIG, SEED), kind);
    const error = worstError(await compile(directory, { quantization }), directory);
    console.log(`${kind} as ${quantization}: ${error.toExponential(2)}`);
    // Carried over unchanged, 4-bit weights are exact: only 8-bit activations are left to differ.
    expect(error).toBeLessThan(kind === 'blocks4' ? TOLERANCE.q8 : TOLERANCE[quantization]);
  });
});

describe('compiled model', () => {
  it('describes itself', async () => {
    const directory = folder();
    writeSafetensors(directory, TINY_CONFIG, tinyTensors(TINY_CONFIG, SEED), 'F32');
    fs.writeFileSync(path.join(directory, 'generation_config.json'), '{"eos_token_id": 9}');
    fs.writeFileSync(
      path.join(directory, 'tokenizer_config.json'),
      '{"eos_token": "<end>", "chat_template": "{{ tools }}"}',
    );
    fs.writeFileSync(path.join(directory, 'tokenizer.json'), '{"added_tokens": [{"id": 5, "content": "<end>"}]}');
    const phases: string[] = [];
    const compiled = await compile(directory, { onProgress: ({ phase }) => phases.push(phase) });
    expect(compiled).toMatchObject({
      kind: 'onnx',
      id: path.basename(directory),
      shape: { numLayers: 2, numKvHeads: 2, headDim: 16, vocabSize: 96, maxPositions: 64 },
      textDir: directory,
      eosTokenIds: [2, 3, 5, 9],
      info: { contextLength: 64, tools: true },
    });
    expect(new Set(phases)).toEqual(new Set(['building', 'packing', 'checking', 'ready']));
    expect((await compile(directory, { maxContext: null })).shape.maxPositions).toBe(128);
  });

  it('comes from the cache the second time, and is built again after truncation, corruption or loss', async () => {
    const directory = folder();
    writeSafetensors(directory, TINY_CONFIG, tinyTensors(TINY_CONFIG, SEED), 'F32');
    const { decodePath } = await compile(directory);
    const built = async (options: Partial<CompileOptions> = {}): Promise<boolean> => {
      let isBuilt = false;
      const again = await compile(directory, { onProgress: () => (isBuilt = true), ...options });
      expect(again.decodePath).toBe(decodePath);
      expect(worstError(again, directory)).toBeLessThan(TOLERANCE.q8);
      return isBuilt;
    };
    expect(await built()).toBe(false);
    fs.truncateSync(`${decodePath}.data`, 5000);
    expect(await built()).toBe(true);
    fs.writeFileSync(decodePath, Buffer.alloc(fs.statSync(decodePath).size, 7));
    expect(await built()).toBe(true);
    fs.writeFileSync(path.join(path.dirname(decodePath), 'meta.json'), '{"key": ');
    expect(await built()).toBe(true);
    fs.rmSync(`${decodePath}.data`);
    expect(await built()).toBe(true);
    expect(await built({ verify: true })).toBe(false);
    expect(fs.readdirSync(path.join(directory, 'cache', 'models'))).toHaveLength(1);
  });

  it('is another entry when weights, context or quantisation change', async () => {
    const directory = folder();
    writeSafetensors(directory, TINY_CONFIG, tinyTensors(TINY_CONFIG, SEED), 'F32');
    const paths = [(await compile(directory)).decodePath];
    paths.push((await compile(directory, { maxContext: 32 })).decodePath);
    paths.push((await compile(directory, { quantization: 'q4' })).decodePath);
    writeSafetensors(directory, TINY_CONFIG, tinyTensors(TINY_CONFIG, SEED + 1), 'F32');
    paths.push((await compile(directory)).decodePath);
    expect(new Set(paths).size).toBe(4);
  });

  it('is built once when two processes ask at the same time, also over the lock of a dead one', async () => {
    const directory = folder();
    writeSafetensors(directory, TINY_CONFIG, tinyTensors(TINY_CONFIG, SEED), 'F32');
    const { decodePath } = await compile(directory);
    const entry = path.dirname(decodePath);
    fs.rmSync(entry, { recursive: true });
    fs.writeFileSync(`${entry}.lock`, '999999999 12345 gone');
    const abandoned = path.join(path.dirname(entry), '.tmp-999999999-abc');
    fs.mkdirSync(abandoned);
    const script = `
      import { compileModel } from ${JSON.stringify(new URL('../../../workers/model/compile.ts', import.meta.url).href)};
      let isBuilt = false;
      const onProgress = ({ phase }) => { if (phase === 'building') isBuilt = true; };
      const { decodePath } = await compileModel({
        model: ${JSON.stringify(directory)}, cacheDir: ${JSON.stringify(path.join(directory, 'cache'))}, maxContext: 64, onProgress,
      });
      console.log(JSON.stringify({ decodePath, isBuilt }));`;
    const results = await Promise.all([runNode(script), runNode(script)]);
    expect(results.map((result) => result.decodePath)).toEqual([decodePath, decodePath]);
    expect(results.filter((result) => result.isBuilt)).toHaveLength(1);
    expect(fs.readdirSync(path.dirname(entry))).toEqual([path.basename(entry)]);
  });

  it.each(['building', 'calibrating', 'packing', 'checking'])(
    'leaves nothing behind when it is stopped at %s',
    async (at) => {
      const directory = folder();
      writeSafetensors(directory, TINY_CONFIG, tinyTensors(TINY_CONFIG, SEED), 'F32');
      const kv = { type: 'int8', memoryBytes: Infinity } as const;
      const stop = new AbortController();
      const reason = new Error('not wanted any more');
      const phases: string[] = [];
      const onProgress = ({ phase }: { phase: string }): void => {
        phases.push(phase);
        if (phase === at) stop.abort(reason);
      };
      await expect(compile(directory, { kv, onProgress, signal: stop.signal })).rejects.toBe(reason);
      expect(phases.filter((phase) => phase === at)).toHaveLength(1);
      expect(fs.readdirSync(path.join(directory, 'cache', 'models'))).toEqual([]);
      expect(worstError(await compile(directory, { kv }), directory)).toBeLessThan(3 * TOLERANCE.q8);
    },
  );

  it('is built by who waits for it when the first is stopped, and who waits may be stopped too', async () => {
    const directory = folder();
    writeSafetensors(directory, TINY_CONFIG, tinyTensors(TINY_CONFIG, SEED), 'F32');
    const [first, second] = [new AbortController(), new AbortController()];
    const isBuilding = Promise.withResolvers<void>();
    const stopped = compile(directory, { signal: first.signal, onProgress: () => isBuilding.resolve() });
    await isBuilding.promise;
    const impatient = compile(directory, {
      signal: second.signal,
      onProgress: ({ phase }) => {
        if (phase.startsWith('waiting')) second.abort(new Error('second'));
      },
    });
    const phases: string[] = [];
    const patient = compile(directory, {
      onProgress: ({ phase }) => {
        phases.push(phase);
        first.abort(new Error('first'));
      },
    });
    await Promise.all([expect(stopped).rejects.toThrow('first'), expect(impatient).rejects.toThrow('second')]);
    const { decodePath } = await patient;
    expect(phases[0]).toMatch(/^waiting/);
    expect(phases).toContain('building');
    const entry = path.dirname(decodePath);
    expect(fs.readdirSync(path.dirname(entry))).toEqual([path.basename(entry)]);
  });

  it('takes 8-bit KV memory where fewer than four full contexts of float32 fit, in an entry of its own', async () => {
    const directory = folder();
    writeSafetensors(directory, TINY_CONFIG, tinyTensors(TINY_CONFIG, SEED), 'F32');
    const float = await compile(directory);
    const fourContexts = 4 * 64 * kvBytesPerToken(float.shape);
    const auto = (memoryBytes: number) => compile(directory, { kv: { type: 'auto', memoryBytes } });
    expect((await auto(fourContexts)).decodePath).toBe(float.decodePath);
    const int8 = await auto(fourContexts - 1);
    expect(int8.shape).toEqual({ ...float.shape, kvType: 'int8' });
    expect(int8.decodePath).not.toBe(float.decodePath);
    expect(float.kvDivergence).toBe(0);
    expect(int8.kvDivergence).toBeGreaterThan(0);
    expect(int8.kvDivergence).toBeLessThan(0.01);
    expect(worstError(int8, directory)).toBeLessThan(3 * TOLERANCE.q8);
    expect(fs.readdirSync(path.dirname(int8.decodePath)).filter((name) => name.startsWith('float'))).toEqual([]);
    expect((await compile(directory, { kv: { type: 'float32', memoryBytes: 0 } })).decodePath).toBe(float.decodePath);
    expect(await compile(directory, { kv: { type: 'int8', memoryBytes: Infinity } })).toEqual(int8);
  });

  it('refuses models it cannot run, naming the reason', async () => {
    const directory = folder();
    writeSafetensors(directory, TINY_CONFIG, tinyTensors(TINY_CONFIG, SEED), 'F32');
    const withConfig = (config: object): Promise<CompiledModel> => {
      fs.writeFileSync(path.join(directory, 'config.json'), JSON.stringify({ ...TINY_CONFIG, ...config }));
      return compile(directory);
    };
    await expect(withConfig({ model_type: 'gpt2' })).rejects.toThrow(/config\.json: model_type is "gpt2"/);
    await expect(withConfig({ model_type: 'toString' })).rejects.toThrow(/model_type is "toString"/);
    await expect(withConfig({ vocab_size: 97 })).rejects.toThrow(/model\.embed_tokens\.weight has shape \[96, 64\]/);
    await expect(withConfig({ num_hidden_layers: 3 })).rejects.toThrow(/tensor model\.layers\.2\./);
    await expect(compile(path.join(root, 'nowhere'))).rejects.toThrow('no model directory');
    await expect(compile('no-such-package-here')).rejects.toThrow('no installed npm package');
    await expect(compile('someone/some-model')).rejects.toThrow('no hub is set');
    await expect(compile(directory, { maxContext: 4 })).rejects.toThrow('at least 16');
    await expect(compile(directory, { maxContext: 129 })).rejects.toThrow(
      'a context of 129 tokens, but the model has 128: set MAX_CONTEXT=128 or less',
    );
    await expect(compile('fake:', { maxContext: 8193 })).rejects.toThrow('set MAX_CONTEXT=8192 or less');
    fs.rmSync(path.join(directory, 'model.safetensors'));
    await expect(withConfig({})).rejects.toThrow('no weights found');
    const left = fs.existsSync(path.join(directory, 'cache'))
      ? fs.readdirSync(path.join(directory, 'cache', 'models'))
      : [];
    expect(left).toEqual([]);
  });
});

function runNode(script: string): Promise<{ decodePath: string; isBuilt: boolean }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ['--input-type=module', '--no-warnings', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let output = '';
    child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
    child.on('error', reject);
    child.on('close', (code) => {
      if (code === 0) resolve(JSON.parse(output) as { decodePath: string; isBuilt: boolean });
      else reject(new Error(`the process ended with ${code}`));
    });
  });
}
