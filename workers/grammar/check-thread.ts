// Entry of the thread that checks grammars (src/engine/grammar-checker.ts starts and ends it). It may be ended at any
// moment: nothing of it is shared, and no model runs in it.
import { existsSync, readlinkSync } from 'node:fs';
import { setPriority } from 'node:os';
import { basename } from 'node:path';
import { parentPort, workerData } from 'node:worker_threads';
import { ServiceError } from '../../protocol/errors.ts';
import type { GrammarCheckData, GrammarSpec, GrammarVerdict } from '../messages.ts';
import { TextModel } from '../text/text-model.ts';
import { checkGrammar, InstanceLost, type Checker } from './check.ts';
import { openCompiler } from './grammars.ts';
import { loadXgrammar } from './xgrammar.ts';

const { textDir, vocabSize, niceness } = workerData as GrammarCheckData;
// On Linux the priority is the thread's own; elsewhere it would be the process's.
if (process.platform === 'linux') setPriority(niceness);

const text = textDir === '' ? TextModel.bytes() : TextModel.load(textDir);
const schema =
  '{"type":"object","properties":{"a":{"type":"string","pattern":"a+"},"b":{"type":"integer","minimum":3}}}';
const calls = [{ name: 'a', schema, isStrict: true, param: '' }];
const warmUp: GrammarSpec[] = [
  { text: { kind: 'schema', schema, param: '' }, calls, mustCall: false, isParallel: true },
  { text: null, calls, mustCall: false, isParallel: true },
];

let checker = await open();
parentPort!.on('message', (spec: GrammarSpec) => void answer(spec));
sayReady();

/** Along with the number under which the system counts this thread's time, where it does. */
function sayReady(): void {
  const path = '/proc/thread-self';
  parentPort!.postMessage({ ready: existsSync(path) ? basename(readlinkSync(path)) : '' });
}

async function open(): Promise<Checker> {
  let messages = '';
  const xgrammar = await loadXgrammar((message) => {
    messages += `${message}\n`;
  });
  const takeMessages = (): string => {
    const taken = messages;
    messages = '';
    return taken;
  };
  const opened = { xgrammar, compiler: openCompiler(xgrammar, text, vocabSize), vocabSize, takeMessages };
  // The first run of fresh wasm takes several times as long: not on anybody's time.
  for (const form of warmUp) checkGrammar(opened, form);
  return opened;
}

async function answer(spec: GrammarSpec): Promise<void> {
  const verdict = verdictOn(spec);
  parentPort!.postMessage(verdict);
  if ('spec' in verdict || !verdict.isLost) return;
  checker = await open();
  sayReady();
}

function verdictOn(spec: GrammarSpec): GrammarVerdict {
  try {
    return { spec: checkGrammar(checker, spec) };
  } catch (error) {
    const isLost = error instanceof InstanceLost;
    const told = isLost ? error.cause : error;
    if (!(told instanceof ServiceError)) throw error;
    const { code, message, param } = told;
    return { code, message, isLost, ...(param === undefined ? {} : { param }) };
  }
}
