// A demonstration: an editor asks for a completion at every key, ten keys a second, and each key makes the answer before
// it stale. Counts the tokens the server computed for nobody: with `supersede`, with cancel and a new request, and with
// HTTP, where the request is aborted and sent anew.
//   node clients/demos/ide-typing.ts [--url http://127.0.0.1:8080] [--help]
import { setTimeout as sleep } from 'node:timers/promises';
import { connect } from '../index.ts';
import type { ChatMessage, Client, ResponseStream } from '../index.ts';
import { readFlags } from './flags.ts';
import { readCounters, requestOverHttp } from './http-side.ts';
import type { Counters } from './http-side.ts';

const help = `An editor that asks for a completion at every key. Prints the tokens that were computed for nobody.

  node clients/demos/ide-typing.ts [--url URL] [--key KEY] [--text TEXT] [--rate KEYS] [--tokens N]

  --url     a running server with nothing else to do; default http://127.0.0.1:8080
  --key     its API key, if it wants one
  --text    what is typed
  --rate    keys a second; default 10
  --tokens  longest completion; default 128

Counted on the server (/metrics) around each run:
  generated  tokens sampled, in all
  in time    tokens of an answer that were here before the next key left
  wasted     generated but not in time, in % of generated
  prompt     prompt tokens computed, and the part of all prompt tokens taken from memory instead

Ends with 0 when superseded answers wasted no more than two tokens a key, or a tenth of what was wasted by answers
left to run.
`;

const flags = readFlags(process.argv.slice(2), {
  url: 'http://127.0.0.1:8080',
  key: '',
  text: 'export function average(values: number[]): number { return values.reduce(',
  rate: '10',
  tokens: '128',
});

/** One completion under way. */
interface Completion {
  /** Characters here so far. */
  numChars(): number;
  /** The next key was typed and this answer is of no use; not called for the last. */
  drop(): void;
  finished: Promise<unknown>;
}

type Start = (text: string, before: Completion | null) => Completion;

interface Outcome extends Counters {
  name: string;
  charsInTime: number;
  /** Of the natively read answers: tokens and characters, which tells how many tokens a character is. */
  tokens: number;
  chars: number;
}

/**
 * A stale answer may make so many tokens while its end is on the way. A share would say more of the machine: the slower it
 * is, the fewer tokens there are beside these.
 */
const TOKENS_PER_KEY = 2;

const sampling = { temperature: 0, seed: 1, maxTokens: Number(flags.values.tokens), ignoreEos: true };

function messages(text: string): ChatMessage[] {
  return [
    { role: 'system', content: 'Continue the code.' },
    { role: 'user', content: text },
  ];
}

function native(
  client: Client,
  way: 'supersede' | 'cancel' | 'leave',
  outcome: { tokens: number; chars: number },
): Start {
  let last: ResponseStream | null = null;
  return (text) => {
    if (way === 'cancel') void last?.cancel();
    const response = client.create({
      messages: messages(text),
      sampling,
      class: 'ide',
      ...(way === 'supersede' ? { supersede: 'lane' } : {}),
    });
    last = response;
    const finished = response.finished.then(({ usage, text: answer }) => {
      outcome.tokens += usage.completionTokens;
      outcome.chars += answer.length;
    });
    return { numChars: () => response.text.length, drop: () => {}, finished };
  };
}

/** Types the text at the given rate and waits for the last completion. */
async function type(name: string, start: Start, counts: { tokens: number; chars: number }): Promise<Outcome> {
  const { url, key, text, rate } = flags.values;
  const before = await readCounters(url, key);
  let charsInTime = 0;
  const begun: Completion[] = [];
  const startMs = performance.now();
  for (let length = 1; length <= text.length; length++) {
    await sleep(Math.max(0, startMs + (length * 1000) / Number(rate) - performance.now()));
    const last = begun.at(-1) ?? null;
    charsInTime += last?.numChars() ?? 0;
    last?.drop();
    begun.push(start(text.slice(0, length), last));
  }
  await Promise.all(begun.map(({ finished }) => finished));
  charsInTime += begun.at(-1)?.numChars() ?? 0;
  // What was aborted over HTTP ends without telling anyone here.
  await sleep(500);
  const after = await readCounters(url, key);
  return {
    name,
    charsInTime,
    ...counts,
    generated: after.generated - before.generated,
    prefilled: after.prefilled - before.prefilled,
    prompt: after.prompt - before.prompt,
  };
}

/** Prints the row; returns the tokens that were wasted. */
function report(outcome: Outcome, tokensPerChar: number): number {
  const { name, generated, prefilled, prompt, charsInTime } = outcome;
  const inTime = Math.min(generated, Math.round(charsInTime * tokensPerChar));
  const share = generated === 0 ? 0 : (100 * (generated - inTime)) / generated;
  const fromMemory = prompt === 0 ? 0 : (100 * (prompt - prefilled)) / prompt;
  process.stdout.write(
    `${name.padEnd(20)} generated ${String(generated).padStart(5)}   in time ${String(inTime).padStart(5)}   ` +
      `wasted ${share.toFixed(1).padStart(5)} %   prompt ${String(prefilled).padStart(6)} computed, ` +
      `${fromMemory.toFixed(0)} % from memory\n`,
  );
  return generated - inTime;
}

async function main(): Promise<number> {
  if (flags.error !== null || flags.wantsHelp) {
    (flags.wantsHelp ? process.stdout : process.stderr).write(flags.wantsHelp ? help : `${flags.error}\n${help}`);
    return flags.wantsHelp ? 0 : 2;
  }
  const { url, key, text, rate } = flags.values;
  const client = connect(url, { name: 'ide-typing', ...(key === '' ? {} : { apiKey: key }) });
  try {
    await client.ready();
    // The first answer of a server is slower than those after it.
    await client.create({ messages: messages('warm up'), sampling }).finished;
    process.stdout.write(`${text.length} keys, ${rate} a second, completions of up to ${sampling.maxTokens} tokens\n`);
    const superseding = { tokens: 0, chars: 0 };
    const leaving = { tokens: 0, chars: 0 };
    const cancelling = { tokens: 0, chars: 0 };
    const first = await type('supersede', native(client, 'supersede', superseding), superseding);
    const second = await type('cancel + resend', native(client, 'cancel', cancelling), cancelling);
    const third = await type(
      'HTTP abort + resend',
      (typed) => requestOverHttp(url, key, { messages: messages(typed), ...sampling }),
      { tokens: 0, chars: 0 },
    );
    const fourth = await type('left to run', native(client, 'leave', leaving), leaving);
    const tokensPerChar = (superseding.tokens + cancelling.tokens) / Math.max(1, superseding.chars + cancelling.chars);
    const wasted = report(first, tokensPerChar);
    report(second, tokensPerChar);
    report(third, tokensPerChar);
    const leftToRun = report(fourth, tokensPerChar);
    return wasted <= Math.max(TOKENS_PER_KEY * text.length, leftToRun / 10) ? 0 : 1;
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n`);
    return 1;
  } finally {
    client.close();
  }
}

process.exitCode = await main();
