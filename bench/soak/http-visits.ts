// What visitors of a soak do over HTTP: answers whole and streamed, connections cut in the middle, Responses that are
// continued, read again and deleted, and bodies that are none.
import { setTimeout as sleep } from 'node:timers/promises';
import { request } from './request.ts';
import type { Visit, Visitor } from './visit.ts';

interface ErrorBody {
  error?: { code: string | null; message: string };
}

/** Sends a POST; counts a refusal and returns null for it. */
async function post(
  visitor: Visitor,
  kind: string,
  path: string,
  body: object,
  signal?: AbortSignal,
): Promise<string | null> {
  const options = { body: JSON.stringify(body), ...(signal === undefined ? {} : { signal }) };
  const { status, text } = await request(`${visitor.url}${path}`, options);
  if (status === 200) return text;
  const { error } = JSON.parse(text) as ErrorBody;
  visitor.ledger.code(kind, error?.code ?? `status ${status}`, error?.message ?? text);
  return null;
}

function chat(visitor: Visitor, words: number, tokens: number, isStream: boolean): object {
  const { maxTokens, ...sampling } = visitor.sampling(tokens);
  const messages = [{ role: 'user', content: visitor.words(words) }];
  return { messages, max_tokens: maxTokens, ...sampling, ...(isStream ? { stream: true } : {}) };
}

export const httpVisits: Readonly<Record<string, Visit>> = {
  async chat(visitor) {
    const isStream = visitor.chance(0.6);
    const text = await post(visitor, 'chat', '/v1/chat/completions', chat(visitor, 60, 100, isStream));
    if (text === null) return;
    if (isStream && !text.endsWith('data: [DONE]\n\n')) {
      const event = /"error":\{[^}]*"code":"(\w+)"/.exec(text);
      visitor.ledger.code('chat', event?.[1] ?? 'no end', text.slice(-300));
    } else visitor.ledger.end('http');
  },

  /** Cuts the connection, which cancels. */
  async chatCut(visitor) {
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), visitor.pick(250));
    const body = chat(visitor, visitor.chance(0.3) ? 500 : 30, 400, visitor.chance(0.7));
    try {
      await post(visitor, 'chatCut', '/v1/chat/completions', { ...body, ignore_eos: true }, abort.signal);
    } catch (error) {
      if (!abort.signal.aborted) throw error;
      visitor.ledger.end('cut');
    } finally {
      clearTimeout(timer);
    }
  },

  async responses(visitor) {
    let previous: string | undefined;
    const ids: string[] = [];
    for (let turn = 1 + visitor.pick(3); turn > 0; turn--) {
      const body = {
        input: visitor.words(40),
        max_output_tokens: 16 + visitor.pick(40),
        previous_response_id: previous,
      };
      const text = await post(visitor, 'responses', '/v1/responses', body);
      if (text === null) break;
      previous = (JSON.parse(text) as { id: string }).id;
      ids.push(previous);
      visitor.ledger.end('http');
    }
    for (const id of ids) {
      const read = await request(`${visitor.url}/v1/responses/${id}`);
      await request(`${visitor.url}/v1/responses/${id}`, { method: 'DELETE' });
      // Memory for ended responses is bounded: an early one may be gone by itself.
      if (read.status !== 200 && read.status !== 404) visitor.ledger.wrong(`responses: reading gave ${read.status}`);
    }
  },

  async background(visitor) {
    const body = { input: visitor.words(40), max_output_tokens: 200, background: true };
    const text = await post(visitor, 'background', '/v1/responses', body);
    if (text === null) return;
    const { id } = JSON.parse(text) as { id: string };
    await sleep(visitor.pick(200));
    if (visitor.chance(0.5)) await post(visitor, 'background', `/v1/responses/${id}/cancel`, {});
  },

  async badBody(visitor) {
    const bodies = ['{', '[]', '{"messages":[]}', '{"messages":"x"}', `{"messages":[{"role":"user","content":7}]}`];
    const body = bodies[visitor.pick(bodies.length)]!;
    const answer = await request(`${visitor.url}/v1/chat/completions`, { body });
    if (answer.status !== 400) visitor.ledger.wrong(`badBody: ${body} gave ${answer.status}`);
  },
};
