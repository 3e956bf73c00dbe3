import { describe, expect, it } from 'vitest';
import { parseListing, selectFiles, type RemoteFile } from '../../../../workers/model/hub/listing.ts';
import { parseRetryAfter } from '../../../../workers/model/hub/retry.ts';

const sha = 'a'.repeat(40);

function file(path: string, bytes = 1): RemoteFile {
  return { path, bytes, checksum: { kind: 'git-sha1', hex: sha } };
}

function chosen(...paths: string[]): string[] {
  const files = ['config.json', 'tokenizer.json', ...paths].map((path) => file(path));
  return selectFiles('o/n', files).weights.map(({ path }) => path);
}

describe("the hub's list of files", () => {
  it('gives sizes and checksums of large and small files', () => {
    const siblings = [
      { rfilename: 'config.json', size: 3, blobId: sha.toUpperCase() },
      { rfilename: 'model.safetensors', size: 9, blobId: sha, lfs: { sha256: 'b'.repeat(64), size: 9 } },
      { rfilename: 'submodule' },
    ];
    expect(parseListing('o/n', { sha, siblings }).files).toEqual([
      { path: 'config.json', bytes: 3, checksum: { kind: 'git-sha1', hex: sha } },
      { path: 'model.safetensors', bytes: 9, checksum: { kind: 'sha256', hex: 'b'.repeat(64) } },
    ]);
  });

  it.each([
    null,
    [],
    {},
    { sha: 'x', siblings: [] },
    { sha: `../${sha.slice(3)}`, siblings: [] },
    { sha },
    { sha, siblings: 'x' },
    { sha, siblings: [null] },
    { sha, siblings: [{ rfilename: 7 }] },
    { sha, siblings: [{ rfilename: 'a\u0000b', size: 1, blobId: sha }] },
    { sha, siblings: [{ rfilename: '', size: 1, blobId: sha }] },
    { sha, siblings: [{ rfilename: 'a', size: null, blobId: sha }] },
  ])('is refused when it is %j', (answer) => {
    expect(() => parseListing('o/n', answer)).toThrow(/^o\/n: /);
  });
});

describe('the files that are downloaded', () => {
  it('are one safetensors file, and no other export beside it', () => {
    expect(chosen('model.safetensors', 'consolidated.safetensors', 'onnx/model.onnx', 'pytorch_model.bin')).toEqual([
      'model.safetensors',
    ]);
  });

  it('are the index and its shards', () => {
    const index = 'model.safetensors.index.json';
    const shards = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'];
    expect(chosen(...shards, index, 'consolidated.safetensors', 'sub/model-00001-of-00002.safetensors')).toEqual([
      index,
      ...shards,
    ]);
    expect(chosen(index, 'part-a.safetensors', 'part-b.safetensors')).toEqual([
      index,
      'part-a.safetensors',
      'part-b.safetensors',
    ]);
  });

  it('are the best ONNX graph with its data where there are no safetensors', () => {
    const files = ['onnx/model_q4.onnx', 'onnx/model_q4.onnx_data', 'onnx/model_quantized.onnx'];
    expect(chosen(...files)).toEqual(['onnx/model_quantized.onnx']);
    expect(chosen('onnx/model_q4.onnx', 'onnx/model_q4.onnx_data', 'onnx/model_q4.onnx_data_1')).toEqual([
      'onnx/model_q4.onnx',
      'onnx/model_q4.onnx_data',
      'onnx/model_q4.onnx_data_1',
    ]);
    expect(chosen('model.onnx', 'model.onnx.data')).toEqual(['model.onnx', 'model.onnx.data']);
  });

  it('must be there and of a likely size', () => {
    expect(() => chosen('model.gguf')).toThrow('neither *.safetensors nor onnx/model*.onnx');
    expect(() => selectFiles('o/n', [file('tokenizer.json')])).toThrow('it has no config.json');
    expect(() => selectFiles('o/n', [file('config.json')])).toThrow('it has no tokenizer.json');
    const hint = 'download one of its GGUF files (Tiny-Q8_0.gguf) and name its path in MODEL';
    expect(() => selectFiles('o/n', [file('README.md'), file('Tiny-Q8_0.gguf')])).toThrow(hint);
    expect(() => chosen('Tiny-Q8_0.gguf')).toThrow(hint);
    const small = [file('config.json'), file('tokenizer.json')];
    expect(() => selectFiles('o/n', [...small, file('model.safetensors', 2 ** 43)])).toThrow('cannot be right');
    const huge = [file('config.json', 2 ** 40), file('tokenizer.json'), file('model.safetensors')];
    expect(() => selectFiles('o/n', huge)).toThrow('config.json claims');
  });
});

describe('Retry-After', () => {
  it('is seconds or a date', () => {
    expect(parseRetryAfter('7')).toBe(7000);
    expect(parseRetryAfter('Thu, 01 Jan 1970 00:00:10 GMT', 4000)).toBe(6000);
    expect(parseRetryAfter('Thu, 01 Jan 1970 00:00:10 GMT', 40_000)).toBe(0);
    expect(parseRetryAfter('soon')).toBeNull();
    expect(parseRetryAfter(null)).toBeNull();
  });
});
