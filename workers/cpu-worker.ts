// Entry of the CPU pool: stateless work that must not run where tokens are decoded. Downloading and compiling a model,
// encoding long prompts, embeddings, and what `npm run models` asks for; one Piscina task each.
import { receiveMessageOnPort, type MessagePort } from 'node:worker_threads';
import { ServiceError } from '../protocol/errors.ts';
import { embed, tokenize } from './embedding-tasks.ts';
import type { CpuResult, CpuTask, EncodeResult } from './messages/cpu-tasks.ts';
import type { CompileProgress, ModelsReport } from './messages/models.ts';
import { compileEncoder, describeEncoder } from './model/compile-encoder.ts';
import { checkConfig, compileModel } from './model/compile.ts';
import { parseHubName } from './model/hub/hub-id.ts';
import { totalBytes } from './model/hub/listing.ts';
import { listLocal, removeLocal, verifyLocal } from './model/hub/manage.ts';
import { pullModel } from './model/hub/pull.ts';
import type { Watch } from './model/progress.ts';
import { TextModel } from './text/text-model.ts';

/** Text models already loaded in this thread, by directory; '' is the fake model's. */
const texts = new Map<string, TextModel>();

export default async function run(task: CpuTask): Promise<CpuResult> {
  switch (task.op) {
    case 'compile':
      return withProgress(task, (watched) => compileModel(watched));
    case 'models':
      return withProgress(task, (watched) => manage(watched));
    case 'encode':
      return encode(task);
    case 'describeEncoder':
      return withProgress(task, describeEncoder);
    case 'compileEncoder':
      return withProgress(task, compileEncoder);
    case 'tokenize':
      return tokenize(task.encoder, task.inputs);
    case 'embed':
      return embed(task.encoder, task.inputs);
  }
}

function encode(task: CpuTask & { op: 'encode' }): EncodeResult {
  let text = texts.get(task.textDir);
  if (!text) {
    text = task.textDir === '' ? TextModel.bytes() : TextModel.load(task.textDir);
    texts.set(task.textDir, text);
  }
  try {
    return text.encodePrompt(task.prompt, task.maxTokens, task.tenant);
  } catch (error) {
    if (error instanceof ServiceError) return { code: error.code, message: error.message };
    throw error;
  }
}

/** Runs work that reports to the port `progress`, and closes it at its end. Anything that arrives there stops the work. */
async function withProgress<Task extends { progress: MessagePort }, T>(
  { progress: port, ...options }: Task,
  work: (options: Omit<Task, 'progress'> & Required<Watch>) => Promise<T>,
): Promise<T> {
  const stop = new AbortController();
  const halt = (): void => stop.abort(new Error('stopped'));
  port.on('message', halt);
  let last = '';
  const onProgress = (report: CompileProgress): void => {
    // A compile computes for seconds without letting an event through.
    if (receiveMessageOnPort(port) !== undefined) halt();
    const text = JSON.stringify(report);
    if (text !== last) port.postMessage(report);
    last = text;
  };
  try {
    return await work({ ...options, onProgress, signal: stop.signal });
  } finally {
    port.close();
  }
}

async function manage({
  action,
  ...options
}: Omit<CpuTask & { op: 'models' }, 'progress'> & Required<Watch>): Promise<ModelsReport> {
  const { hub, onProgress, signal } = options;
  if (action.kind === 'list') return { kind: 'list', models: listLocal(options) };
  if (action.kind === 'verify') return { kind: 'verify', files: await verifyLocal(action.name, options) };
  if (action.kind === 'remove') return { kind: 'remove', bytes: await removeLocal(action.name, options) };
  const name = parseHubName(action.name);
  if (name === null) throw new Error(`${action.name}: a model of the hub is written org/name or org/name@revision`);
  const { directory, manifest } = await pullModel({ name, hub, isRefresh: true, checkConfig, onProgress, signal });
  return { kind: 'pull', directory, commit: manifest.commit, bytes: totalBytes(manifest.files) };
}
