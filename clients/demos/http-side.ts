// What ide-typing.ts needs of HTTP: one streamed chat completion that can be aborted, and the server's own counters.
import type { ChatMessage } from '../index.ts';

/** Tokens since the server was started, over all models. */
export interface Counters {
  generated: number;
  /** Prompt tokens computed. */
  prefilled: number;
  /** Prompt tokens of all requests, computed or taken from memory. */
  prompt: number;
}

const names: Record<keyof Counters, string> = {
  generated: 'tokenwire_generation_tokens_total',
  prefilled: 'tokenwire_prefill_tokens_total',
  prompt: 'tokenwire_prompt_tokens_total',
};

/** An address on the server, whose own may be given as ws:// or wss:// too, as the SDK takes it. */
function addressOf(path: string, url: string): URL {
  return new URL(path, url.replace(/^ws/i, 'http'));
}

function headers(key: string): Record<string, string> {
  return { 'content-type': 'application/json', ...(key === '' ? {} : { authorization: `Bearer ${key}` }) };
}

/** Throws when the server has no such counters. */
export async function readCounters(url: string, key: string): Promise<Counters> {
  const answer = await fetch(addressOf('/metrics', url), { headers: headers(key) });
  const text = await answer.text();
  const read = (name: string): number => {
    const found = [...text.matchAll(new RegExp(`^${name}(?:\\{[^}]*\\})? ([0-9.e+]+)$`, 'gm'))];
    if (found.length === 0) throw new Error(`the server does not count ${name}`);
    return found.reduce((sum, [, value]) => sum + Number(value), 0);
  };
  return { generated: read(names.generated), prefilled: read(names.prefilled), prompt: read(names.prompt) };
}

interface Body {
  messages: ChatMessage[];
  temperature: number;
  seed: number;
  maxTokens: number;
  ignoreEos: boolean;
}

/** A streamed chat completion; `drop` aborts it, `finished` fulfils either way. */
export function requestOverHttp(
  url: string,
  key: string,
  { messages, temperature, seed, maxTokens, ignoreEos }: Body,
): { numChars(): number; drop(): void; finished: Promise<void> } {
  const abort = new AbortController();
  let numChars = 0;
  const run = async (): Promise<void> => {
    const body = { model: 'default', stream: true, messages, temperature, seed };
    const answer = await fetch(addressOf('/v1/chat/completions', url), {
      method: 'POST',
      headers: headers(key),
      body: JSON.stringify({ ...body, max_completion_tokens: maxTokens, ignore_eos: ignoreEos }),
      signal: abort.signal,
    });
    if (!answer.ok || answer.body === null) throw new Error(`HTTP ${answer.status}: ${await answer.text()}`);
    let rest = '';
    const decoder = new TextDecoder();
    for await (const bytes of answer.body as unknown as AsyncIterable<Uint8Array>) {
      rest += decoder.decode(bytes, { stream: true });
      const lines = rest.split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        if (!line.startsWith('data: {')) continue;
        const chunk = JSON.parse(line.slice(6)) as { choices: { delta: { content?: string } }[] };
        numChars += chunk.choices[0]?.delta.content?.length ?? 0;
      }
    }
  };
  const finished = run().catch((error: unknown) => {
    if (!abort.signal.aborted) throw error;
  });
  return { numChars: () => numChars, drop: () => abort.abort(), finished };
}
