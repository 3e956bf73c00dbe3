// A conversation turn by turn, over each way to hold one: a native session, Chat Completions that resend everything,
// and Responses that name the one before. Called by the bench `turns`; each says when the first text came.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from '../../clients/index.ts';

export interface Turn {
  /** From sending to the first text. */
  ttftMs: number;
  promptTokens: number;
  /** Part of promptTokens whose KV was reused. */
  cachedTokens: number;
}

export interface Talk {
  /** Says this and reads the answer to its end, greedy. */
  say(content: string): Promise<Turn>;
}

export type OpenTalk = () => Talk;

/** What was computed when the answer ended is back in its home a moment later. */
const COPY_BACK_MS = 20;

/** A session of the SDK, of the class of the others: voice would make everybody's chunks short for ten seconds. */
export function nativeTalks(client: Client, maxTokens: number): OpenTalk {
  return () => {
    const session = client.session({ class: 'chat' });
    return {
      async say(content) {
        const sentAtMs = performance.now();
        const response = session.send(content, { temperature: 0, maxTokens });
        let ttftMs = NaN;
        for await (const _text of response) ttftMs = Number.isNaN(ttftMs) ? performance.now() - sentAtMs : ttftMs;
        const { usage } = await response.finished;
        await sleep(COPY_BACK_MS);
        return { ttftMs, promptTokens: usage.promptTokens, cachedTokens: usage.cachedTokens };
      },
    };
  };
}

interface ChatChunk {
  choices: { delta: { content?: string } }[];
  usage?: { prompt_tokens: number; prompt_tokens_details: { cached_tokens: number } } | null;
}

export function chatTalks(url: string, maxTokens: number): OpenTalk {
  return () => {
    const messages: { role: string; content: string }[] = [];
    return {
      async say(content) {
        messages.push({ role: 'user', content });
        const body = { messages, temperature: 0, max_tokens: maxTokens, stream_options: { include_usage: true } };
        const sentAtMs = performance.now();
        const turn = { ttftMs: NaN, promptTokens: 0, cachedTokens: 0 };
        let answer = '';
        for await (const event of events<ChatChunk>(`${url}/v1/chat/completions`, body)) {
          const text = event.choices[0]?.delta.content ?? '';
          if (text !== '' && answer === '') turn.ttftMs = performance.now() - sentAtMs;
          answer += text;
          turn.promptTokens = event.usage?.prompt_tokens ?? turn.promptTokens;
          turn.cachedTokens = event.usage?.prompt_tokens_details.cached_tokens ?? turn.cachedTokens;
        }
        messages.push({ role: 'assistant', content: answer });
        await sleep(COPY_BACK_MS);
        return turn;
      },
    };
  };
}

interface ResponseEvent {
  type: string;
  response?: { id: string; usage?: { input_tokens: number; input_tokens_details: { cached_tokens: number } } | null };
}

export function responseTalks(url: string, maxTokens: number): OpenTalk {
  return () => {
    let previous: string | undefined;
    return {
      async say(content) {
        const body = { input: content, temperature: 0, max_output_tokens: maxTokens, previous_response_id: previous };
        const sentAtMs = performance.now();
        const turn = { ttftMs: NaN, promptTokens: 0, cachedTokens: 0 };
        for await (const event of events<ResponseEvent>(`${url}/v1/responses`, body)) {
          if (event.type.endsWith('.delta') && Number.isNaN(turn.ttftMs)) turn.ttftMs = performance.now() - sentAtMs;
          if (event.response?.usage == null) continue;
          previous = event.response.id;
          turn.promptTokens = event.response.usage.input_tokens;
          turn.cachedTokens = event.response.usage.input_tokens_details.cached_tokens;
        }
        await sleep(COPY_BACK_MS);
        return turn;
      },
    };
  };
}

/** The events of one streamed request. Throws an Error with the answer's text when it is refused. */
async function* events<T>(url: string, body: object): AsyncGenerator<T> {
  const headers = { 'content-type': 'application/json' };
  const answer = await fetch(url, { method: 'POST', headers, body: JSON.stringify({ ...body, stream: true }) });
  if (!answer.ok || answer.body === null) throw new Error(`${url}: ${answer.status} ${await answer.text()}`);
  let rest = '';
  for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) {
    rest += piece;
    for (let end; (end = rest.indexOf('\n\n')) >= 0; rest = rest.slice(end + 2)) {
      const data = /^data: (.*)$/m.exec(rest.slice(0, end))?.[1];
      if (data !== undefined && data !== '[DONE]') yield JSON.parse(data) as T;
    }
  }
}
