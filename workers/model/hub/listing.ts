// What the hub says a model consists of, and which of it we need. The answer is input from strangers: names, sizes and
// checksums are checked here, before a path or a byte is made of them.
// Form: GET /api/models/{id}/revision/{revision}?blobs=true of the Hugging Face hub's HTTP API.
import { ONNX_CANDIDATES } from '../weights/onnx.ts';
import { HubError } from './retry.ts';

/** Large files are stored by SHA-256; small ones are git blobs, named by the SHA-1 of a header and the content. */
export interface Checksum {
  kind: 'sha256' | 'git-sha1';
  /** Lower case. */
  hex: string;
}

export interface RemoteFile {
  /** Relative, with forward slashes, without `..`. */
  path: string;
  bytes: number;
  checksum: Checksum;
}

export interface Listing {
  /** 40 hex digits. */
  commit: string;
  files: RemoteFile[];
}

/** What the compilers read besides the weights; the first two must be there. */
const TEXT_FILES = [
  'config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'generation_config.json',
  'chat_template.jinja',
  'chat_template.json',
  // Of embedding models.
  'modules.json',
  'sentence_bert_config.json',
  '1_Pooling/config.json',
];
const REQUIRED = TEXT_FILES.slice(0, 2);
const SINGLE = 'model.safetensors';
const INDEX = 'model.safetensors.index.json';
const SHARD = /^model-\d+-of-\d+\.safetensors$/;
/** The largest tokenizers are at 35 MB. */
const MAX_TEXT_BYTES = 256 << 20;
/** No model this server could run is a tenth of it. */
const MAX_TOTAL_BYTES = 4 * 2 ** 40;
const MAX_FILES = 100_000;

/** Checks the hub's answer. Throws a HubError that names the field or file. */
export function parseListing(id: string, answer: unknown): Listing {
  if (!isRecord(answer)) throw new HubError(`${id}: the hub's answer is not an object`);
  const { sha, siblings } = answer;
  if (typeof sha !== 'string' || !/^[0-9a-f]{40}$/.test(sha)) {
    throw new HubError(`${id}: the hub's answer names no commit (sha)`);
  }
  if (!Array.isArray(siblings) || siblings.length > MAX_FILES) {
    throw new HubError(`${id}: the hub's answer has no list of files (siblings)`);
  }
  const files = siblings.map((sibling: unknown) => parseFile(id, sibling));
  return { commit: sha, files: files.filter((file) => file !== null) };
}

/** Null for a file without size or checksum, which cannot be downloaded safely (git submodules, for one). */
function parseFile(id: string, sibling: unknown): RemoteFile | null {
  const name = isRecord(sibling) ? sibling['rfilename'] : undefined;
  if (!isRecord(sibling) || typeof name !== 'string') throw new HubError(`${id}: a file in the hub's list has no name`);
  if (!isSafePath(name)) {
    throw new HubError(`${id}: the hub lists a file ${JSON.stringify(name.slice(0, 200))}, which leads elsewhere`);
  }
  const lfs = sibling['lfs'];
  const size = (isRecord(lfs) ? lfs['size'] : undefined) ?? sibling['size'];
  const checksum = isRecord(lfs)
    ? hexOf('sha256', lfs['sha256'] ?? lfs['oid'], 64)
    : hexOf('git-sha1', sibling['blobId'], 40);
  if (size === undefined || checksum === null) return null;
  if (!Number.isSafeInteger(size) || (size as number) < 0) {
    throw new HubError(`${id}: the hub says that ${name} has ${JSON.stringify(size)} bytes`);
  }
  return { path: name, bytes: size as number, checksum };
}

function hexOf(kind: Checksum['kind'], value: unknown, digits: number): Checksum | null {
  if (typeof value !== 'string') return null;
  const hex = value.toLowerCase();
  return hex.length === digits && /^[0-9a-f]+$/.test(hex) ? { kind, hex } : null;
}

function isSafePath(name: string): boolean {
  // eslint-disable-next-line no-control-regex
  if (name === '' || name.length > 500 || /[\\:\u0000-\u001F]/.test(name)) return false;
  return name.split('/').every((part) => part !== '' && part !== '.' && part !== '..');
}

/** The files to download: small ones that say what the model is, then its weights in the first form we can read. */
export interface Selection {
  text: RemoteFile[];
  weights: RemoteFile[];
}

/** Throws a HubError when something needed is missing or a size is absurd. */
export function selectFiles(id: string, files: readonly RemoteFile[]): Selection {
  const byPath = new Map(files.map((file) => [file.path, file]));
  const missing = REQUIRED.find((name) => !byPath.has(name));
  if (missing !== undefined) {
    throw new HubError(`${id}: it has no ${missing}, so it is not a model that can be served here${ggufHint(files)}`);
  }
  const text = TEXT_FILES.flatMap((name) => byPath.get(name) ?? []);
  const huge = text.find(({ bytes }) => bytes > MAX_TEXT_BYTES);
  if (huge !== undefined) throw new HubError(`${id}: ${huge.path} claims ${huge.bytes} bytes, which cannot be right`);
  const weights = safetensors(byPath) ?? onnx(byPath);
  if (weights === null) {
    throw new HubError(
      `${id}: it has neither *.safetensors nor onnx/model*.onnx; weights in other forms are not read from the hub${ggufHint(files)}`,
    );
  }
  const total = totalBytes([...text, ...weights]);
  if (total > MAX_TOTAL_BYTES) throw new HubError(`${id}: its files claim ${total} bytes, which cannot be right`);
  return { text, weights };
}

/** Such repositories hold one model many times over, without the files that say what it is. */
function ggufHint(files: readonly RemoteFile[]): string {
  const first = files.find(({ path }) => path.toLowerCase().endsWith('.gguf'));
  return first === undefined ? '' : `; download one of its GGUF files (${first.path}) and name its path in MODEL`;
}

/** As openSafetensors reads them: one file, else the index and its shards. Other exports beside them are left out. */
function safetensors(files: ReadonlyMap<string, RemoteFile>): RemoteFile[] | null {
  const single = files.get(SINGLE);
  if (single !== undefined) return [single];
  const index = files.get(INDEX);
  if (index === undefined) return null;
  const beside = [...files.values()].filter(({ path }) => /^[^/]+\.safetensors$/.test(path));
  const numbered = beside.filter(({ path }) => SHARD.test(path));
  return [index, ...(numbered.length > 0 ? numbered : beside)];
}

/** As openOnnxWeights reads them: the first of its candidates, with the data files beside it. */
function onnx(files: ReadonlyMap<string, RemoteFile>): RemoteFile[] | null {
  const graph = ['onnx/', ''].flatMap((folder) => ONNX_CANDIDATES.flatMap((name) => files.get(folder + name) ?? []))[0];
  if (graph === undefined) return null;
  const stem = graph.path.slice(0, -'.onnx'.length);
  const data = [...files.values()].filter(
    ({ path }) => path.startsWith(stem) && /^\.onnx[._]data(_\d+)?$/.test(path.slice(stem.length)),
  );
  return [graph, ...data];
}

export function totalBytes(files: readonly RemoteFile[]): number {
  return files.reduce((total, { bytes }) => total + bytes, 0);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
