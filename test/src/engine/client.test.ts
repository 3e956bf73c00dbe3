import { describe, expect, it } from 'vitest';
import type { ChatMessage } from '../../../protocol/messages.ts';
import { defaultSampling } from '../../../protocol/sampling.ts';
import { EngineClient, numFlags } from '../../../src/engine/client.ts';
import type { EngineSink } from '../../../src/engine/types.ts';
import type { CompiledModel } from '../../../workers/messages/models.ts';
import type { PromptInput } from '../../../workers/messages/requests.ts';

/** Where a conversation is encoded, and for whom. */
async function encodedBy(messages: ChatMessage[]): Promise<string> {
  const places: string[] = [];
  const client = new EngineClient({} as CompiledModel, 4096, new SharedArrayBuffer(4 * numFlags(1, 1)), {
    toLead: (message) =>
      void places.push(message.op === 'submit' ? `lead: ${message.request.prompt.kind}` : message.op),
    wake: () => {},
    encode: (_prompt, _maxTokens, tenant) => {
      places.push(`pool for ${tenant}`);
      return Promise.resolve({ tokenIds: [1], droppedMessages: 0 });
    },
    checkGrammar: (spec) => Promise.resolve(spec),
  });
  const prompt: PromptInput = { kind: 'chat', messages, tools: [], history: null, truncation: 'error' };
  const request = { tenant: 'acme', session: '', class: 'chat', sampling: defaultSampling } as const;
  client.submit({ ...request, toolNames: [], prompt }, [{} as EngineSink]);
  await new Promise(setImmediate);
  return places.join(', ');
}

const user = (content: string): ChatMessage => ({ role: 'user', content });
const assistant = (content: string): ChatMessage => ({ role: 'assistant', content });

describe('EngineClient', () => {
  it.each<[what: string, messages: ChatMessage[]]>([
    ['a short prompt', [user('x'.repeat(4000))]],
    [
      'a later turn',
      [user('x'.repeat(3000)), assistant('y'.repeat(3000)), user('x'.repeat(3000)), assistant(''), user('z')],
    ],
  ])('leaves %s to the lead', async (_, messages) => {
    expect(await encodedBy(messages)).toBe('lead: chat');
  });

  it.each<[what: string, messages: ChatMessage[]]>([
    ['a long prompt', [user('x'.repeat(4100))]],
    ['text of long characters', [user('世'.repeat(1400))]],
    ['much new text in a later turn', [user('x'), assistant('y'), user('x'.repeat(4100))]],
    ['a later turn after a long answer', [user('x'), assistant('y'.repeat(4000)), user('x'.repeat(100))]],
    ['a later turn of a long conversation', [user('x'.repeat(12_300)), assistant('y'), user('z')]],
  ])('has %s encoded on the CPU pool', async (_, messages) => {
    expect(await encodedBy(messages)).toBe('pool for acme, lead: encoded');
  });
});
