// The thread that checks grammars, once its entry (check-entry.ts) has made it a polite one. It may be ended at any moment:
// nothing of it is shared, and no model runs in it.
import { existsSync, readlinkSync } from 'node:fs';
import { basename } from 'node:path';
import { parentPort, workerData } from 'node:worker_threads';
import { ServiceError } from '../../protocol/errors.ts';
import { ImageSpace } from '../messages/grammar.ts';
import type {
  GrammarBase,
  GrammarCheck,
  GrammarCheckAnswer,
  GrammarCheckData,
  GrammarSpec,
  GrammarVerdict,
} from '../messages/grammar.ts';
import { checkGrammar, InstanceLost, type Checker } from './check.ts';
import { GrammarInstance, type Vocabulary } from './instance.ts';

const data = workerData as GrammarCheckData;

const schema =
  '{"type":"object","properties":{"a":{"type":"string","pattern":"a+"},"b":{"type":"integer","minimum":3}}}';
const calls = [{ name: 'a', schema, isStrict: true, param: '' }];
const warmUp: GrammarSpec[] = [
  { text: { kind: 'schema', schema, param: '' }, calls, mustCall: false, isParallel: true },
  { text: null, calls, mustCall: false, isParallel: true },
];

let checker = await open(data.base ?? (await loadText()));
parentPort!.on('message', (check: GrammarCheck) => void answer(check));
sayReady();

/** Most threads take the place of another one and need no text model. */
async function loadText(): Promise<Vocabulary> {
  const { TextModel } = await import('../text/text-model.ts');
  return data.textDir === '' ? TextModel.bytes() : TextModel.load(data.textDir);
}

/** Along with the number under which the system counts this thread's time, where it does. */
function sayReady(): void {
  const path = '/proc/thread-self';
  const task = existsSync(path) ? basename(readlinkSync(path)) : '';
  post({ ready: { task, base: checker.instance.base() } });
}

function post(message: GrammarCheckAnswer): void {
  parentPort!.postMessage(message);
}

async function open(source: Vocabulary | GrammarBase): Promise<Checker> {
  let messages = '';
  const instance = await GrammarInstance.open(source, data.vocabSize, (message) => {
    messages += `${message}\n`;
  });
  const takeMessages = (): string => {
    const taken = messages;
    messages = '';
    return taken;
  };
  const opened = { instance, limitMs: data.limitMs, takeMessages };
  instance.base();
  // The first run of fresh wasm takes several times as long: not on anybody's time.
  for (const spec of warmUp) checkGrammar(opened, { spec, address: ImageSpace.start });
  return opened;
}

async function answer(check: GrammarCheck): Promise<void> {
  const verdict = verdictOn(check);
  post(verdict);
  if ('spec' in verdict || !verdict.isLost) return;
  checker = await open(checker.instance.base());
  sayReady();
}

function verdictOn(check: GrammarCheck): GrammarVerdict {
  try {
    return { spec: checkGrammar(checker, check) };
  } catch (error) {
    const isLost = error instanceof InstanceLost;
    const told = isLost ? error.cause : error;
    if (!(told instanceof ServiceError)) throw error;
    const { code, message, param } = told;
    return { code, message, isLost, ...(param === undefined ? {} : { param }) };
  }
}
