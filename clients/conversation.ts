// The local copy of a conversation: what a session is made from again when the server has forgotten it. Follows the
// server's rules for what an answer leaves in history. Owned by session.ts; null messages: only the server knows them.
import { encode } from '../protocol/codec.ts';
import { Limits } from '../protocol/constants.ts';
import { Op } from '../protocol/messages.ts';
import type { ChatMessage, SessionOptions } from '../protocol/messages.ts';
import type { ResponseStream } from './response.ts';
import type { Finished } from './response-events.ts';

/** A turn of this program at the end of the copy. */
interface OwnTurn {
  response: ResponseStream;
  numMessages: number;
}

/** Room in a frame for what is not measured: the heads of arrays, the lane, the requestId. */
const FRAME_SPARE_BYTES = 256;

export class Conversation {
  #messages: ChatMessage[] | null;
  #numTurns = 0;
  #tail: OwnTurn[] = [];
  /** Replaced before they were noted. */
  readonly #forgotten = new WeakSet<ResponseStream>();
  /** Still running here when the messages were taken from the server. */
  readonly #mayBeHere = new WeakSet<ResponseStream>();

  constructor(messages: ChatMessage[] | null) {
    this.#messages = messages;
  }

  get messages(): readonly ChatMessage[] {
    return this.#messages ?? [];
  }

  get numTurns(): number {
    return this.#numTurns;
  }

  set numTurns(numTurns: number) {
    this.#numTurns = numTurns;
  }

  /** What the server keeps; turns of the answers still running here may be among it. */
  replace(messages: readonly ChatMessage[], running: Iterable<ResponseStream> = []): void {
    this.#messages = messages.slice();
    this.#tail = [];
    for (const response of running) this.#mayBeHere.add(response);
  }

  /** An answer has ended: its turn, as the server keeps it. */
  remember(question: readonly ChatMessage[], finished: Finished, response: ResponseStream): void {
    if (response.id === null || finished.cancelledBy === 'supersede' || this.#forgotten.has(response)) return;
    const content = finished.text.slice(0, response.heardUpTo ?? finished.text.length);
    const saidNothing = content === '' && finished.toolCalls.length === 0;
    if (finished.reason === 'cancelled' && saidNothing) return;
    const answer: ChatMessage = { role: 'assistant', content };
    if (finished.toolCalls.length > 0) answer.toolCalls = finished.toolCalls;
    this.#numTurns++;
    if (this.#mayBeHere.has(response) && this.#has([...question, answer])) return;
    this.#messages?.push(...question, answer);
    this.#tail.push({ response, numMessages: question.length + 1 });
  }

  #has(turn: readonly ChatMessage[]): boolean {
    const all = (this.#messages ?? []).map((message) => JSON.stringify(message));
    const wanted = turn.map((message) => JSON.stringify(message));
    return all.some((_, index) => wanted.every((message, offset) => all[index + offset] === message));
  }

  /** An answer was replaced: its turn leaves no trace. Returns false for a turn that is not known to be the last. */
  forget(response: ResponseStream): boolean {
    this.#forgotten.add(response);
    const last = this.#tail.at(-1);
    if (last?.response !== response) return this.#tail.every((turn) => turn.response !== response);
    this.#tail.pop();
    this.#numTurns--;
    this.#messages?.splice(this.#messages.length - last.numMessages);
    return true;
  }

  /** The user heard the answer only up to there, said after its end. */
  cut(response: ResponseStream, heardUpTo: number): void {
    if (this.#tail.at(-1)?.response !== response) return;
    const answer = this.#messages?.at(-1);
    if (answer === undefined) return;
    const cut = { ...answer, content: answer.content.slice(0, heardUpTo) };
    if (cut.content === '' && (cut.toolCalls ?? []).length === 0) this.forget(response);
    else this.#messages?.splice(-1, 1, cut);
  }

  /** Without its last turns; a turn ends with its answer, and begins after the answer before it. */
  withoutLast(numDropped: number): ChatMessage[] {
    const messages = this.#messages ?? [];
    if (numDropped <= 0) return messages.slice();
    const ends = messages.flatMap(({ role }, index) => (role === 'assistant' ? [index + 1] : []));
    const end = ends.at(-1 - numDropped) ?? messages.findIndex(({ role }) => role !== 'system');
    return messages.slice(0, Math.max(0, end));
  }

  /**
   * Drops the oldest turns until a session can be made from the rest in one frame, with `make` beside them. Returns how
   * many messages went. What is left begins with a question; the system message stays.
   */
  shrinkToFrame(make: SessionOptions): number {
    const messages = this.#messages ?? [];
    const first = messages[0]?.role === 'system' ? 1 : 0;
    const system = messages.slice(0, first);
    let room = Limits.messageBytes - FRAME_SPARE_BYTES - encode([Op.OpenSession, 0, '', make]).length;
    if (make.system === undefined) for (const message of system) room -= encodedBytes(message);
    let start = messages.length;
    for (let index = messages.length - 1; index >= first; index--) {
      room -= encodedBytes(messages[index]!);
      if (room < 0 || messages.length - index > Limits.messagesPerRequest) break;
      const isBeginning = messages[index]!.role === 'user' && messages[index - 1]?.role === 'assistant';
      if (isBeginning || index === first) start = index;
    }
    const numDropped = start - first;
    if (numDropped > 0) this.replace([...system, ...messages.slice(start)]);
    return numDropped;
  }

  /** What a new session is made from. The copy may begin with the system message, which is an option of its own. */
  asOptions(system: string | undefined): SessionOptions {
    const messages = this.#messages ?? [];
    if (messages.length === 0) return {};
    const first = messages[0];
    if (first?.role !== 'system') return { messages: messages.slice() };
    return { system: system ?? first.content, messages: messages.slice(1) };
  }
}

function encodedBytes(message: ChatMessage): number {
  return encode([Op.OpenSession, 0, '', { messages: [message] }]).length;
}
