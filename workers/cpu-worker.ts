// Entry of the CPU pool: short, stateless work that must not run where tokens are decoded. Compiling a model and
// encoding long prompts; one Piscina task each.
import { ServiceError } from '../protocol/errors.ts';
import type { CompiledModel, CompileProgress, CpuTask, EncodeResult } from './messages.ts';
import { compileModel } from './model/compile.ts';
import { TextModel } from './text/text-model.ts';

/** Text models already loaded in this thread, by directory; '' is the fake model's. */
const texts = new Map<string, TextModel>();

export default async function run(task: CpuTask): Promise<CompiledModel | EncodeResult> {
  if (task.op === 'compile') {
    const { model, cacheDir, kv, maxContext, progress } = task;
    try {
      const onProgress = (report: CompileProgress): void => progress.postMessage(report);
      return await compileModel({ model, cacheDir, kv, maxContext, onProgress });
    } finally {
      progress.close();
    }
  }
  let text = texts.get(task.textDir);
  if (!text) {
    text = task.textDir === '' ? TextModel.bytes() : TextModel.load(task.textDir);
    texts.set(task.textDir, text);
  }
  try {
    return text.encodePrompt(task.prompt, task.maxTokens);
  } catch (error) {
    if (error instanceof ServiceError) return { code: error.code, message: error.message };
    throw error;
  }
}
