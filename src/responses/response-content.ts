// What a response has said so far: its log of events, and the token ids, tool calls and counts that go with them. Response
// fills it from what the engine sends and tells its readers; here are no states, no clocks and no readers.
import { randomBytes } from 'node:crypto';
import type { TokenLogprob, ToolCall, Usage } from '../../protocol/messages.ts';
import { ResponseLog } from './response-log.ts';
import type { EndEvent } from './response-log.ts';

/** Estimated memory of a response beside its texts and ids. */
const FIXED_BYTES = 1024;

export class ResponseContent {
  readonly log = new ResponseLog();
  /** Ids of the generated tokens, also of those without text. */
  readonly tokenIds: number[] = [];
  readonly toolCalls: ToolCall[] = [];
  /** Ids of the whole prompt; null until the engine delivers them, which it does for requests of a session. */
  promptTokenIds: Int32Array | null = null;
  promptTokens = 0;
  cachedTokens = 0;
  droppedMessages = 0;
  readonly #owner: string;
  /** Of tokens whose text has been or is about to be appended. */
  #logprobs: TokenLogprob[] = [];

  /** `owner` is named where the engine breaks its word. */
  constructor(owner: string) {
    this.#owner = owner;
  }

  /** Counts so far. */
  get usage(): Usage {
    const { promptTokens, cachedTokens, droppedMessages } = this;
    return { promptTokens, cachedTokens, completionTokens: this.tokenIds.length, droppedMessages };
  }

  /** Estimated memory. */
  get bytes(): number {
    return this.log.bytes + this.tokenIds.length * 8 + (this.promptTokenIds?.byteLength ?? 0) + FIXED_BYTES;
  }

  /** False when that makes no event. Tokens that were decided only after their text get one without text. */
  appendText(text: string): boolean {
    if (this.#logprobs.length > 0) {
      this.log.append({ kind: 'text', text, logprobs: this.#logprobs });
      this.#logprobs = [];
    } else if (text !== '') this.log.append({ kind: 'text', text });
    else return false;
    return true;
  }

  /** They go with the text that is appended next. */
  addLogprobs(tokens: readonly TokenLogprob[]): void {
    this.#logprobs.push(...tokens);
  }

  beginTool(index: number, name: string): void {
    if (index !== this.toolCalls.length) throw new Error(`${this.#owner}: tool call ${index} begins out of order`);
    this.appendText('');
    const callId = `call_${randomBytes(12).toString('hex')}`;
    this.toolCalls.push({ id: callId, name, arguments: '' });
    this.log.append({ kind: 'toolBegin', index, callId, name });
  }

  /** False when that makes no event. */
  appendArguments(index: number, text: string): boolean {
    const call = this.toolCalls[index];
    if (call === undefined) throw new Error(`${this.#owner}: tool call ${index} goes on without a beginning`);
    if (text === '') return false;
    call.arguments += text;
    this.log.append({ kind: 'toolDelta', index, text });
    return true;
  }

  endTool(index: number): void {
    if (this.toolCalls[index] === undefined) {
      throw new Error(`${this.#owner}: tool call ${index} ends without a beginning`);
    }
    this.log.append({ kind: 'toolEnd', index });
  }

  /** The last event. */
  end(end: EndEvent): void {
    this.appendText('');
    this.log.append(end);
  }
}
