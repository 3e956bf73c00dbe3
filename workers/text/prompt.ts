// A conversation → the token ids the engine prefills: rendering, reuse of the ids a session already has, and
// shortening to the context. Called by TextModel.encodePrompt. What must stay true: when history is reused, the new
// prompt begins with exactly those ids, so that their KV can be used again.
import { ServiceError } from '../../protocol/errors.ts';
import type { ChatMessage, ToolDefinition } from '../../protocol/messages.ts';
import type { PromptInput } from '../messages/requests.ts';
import type { ChatTemplate } from './chat-template.ts';
import type { TenantPieces } from './encoded-pieces.ts';
import type { Place, PlainEncoder } from './plain-tokenizer.ts';
import type { Mark, MarkedText, SpecialTokens } from './special-tokens.ts';
import type { TokenBytes } from './token-bytes.ts';

export interface EncodedPrompt {
  tokenIds: number[];
  droppedMessages: number;
}

/** What a prompt is made with. */
export interface PromptParts {
  template: ChatTemplate;
  specials: SpecialTokens;
  plain: PlainEncoder;
  bytes: TokenBytes;
  /** What this tenant had encoded before; null remembers nothing. */
  known: TenantPieces | null;
}

/** Characters that normalising may make one of, at most: with more than these no tokenizer gets a text into the context. */
const CHARS_PER_NORMALIZED = 4;

type ChatInput = Extract<PromptInput, { kind: 'chat' }>;

/** Conversations of more characters per allowed token than this are shortened from the end instead of tried whole. */
const HOPELESS_CHARS_PER_TOKEN = 16;

function unreadable(messages: readonly ChatMessage[], maxTokens: number): ServiceError {
  const message = `prompt has ${numChars(messages)} characters, more than ${maxTokens} tokens can spell`;
  return new ServiceError('context_too_long', message, { param: 'messages' });
}

function tooLong(numTokens: number, maxTokens: number): ServiceError {
  return new ServiceError('context_too_long', `prompt has ${numTokens} tokens, at most ${maxTokens} fit`, {
    param: 'messages',
  });
}

function numChars(messages: readonly ChatMessage[]): number {
  return messages.reduce((sum, { content }) => sum + content.length, 0);
}

/** Throws invalid_request (the template cannot express it) and context_too_long. */
export function encodeChat(parts: PromptParts, input: ChatInput, maxTokens: number): EncodedPrompt {
  const { messages, tools, truncation } = input;
  if (messages.length === 0) throw new ServiceError('invalid_request', 'messages are empty', { param: 'messages' });
  const encoder = new ConversationEncoder(parts, tools);
  // Reading megabytes takes seconds, and what becomes one token is no longer than the longest.
  const maxChars = maxTokens * parts.bytes.longest * CHARS_PER_NORMALIZED;
  if (truncation === 'error') {
    if (numChars(messages) > maxChars) throw unreadable(messages, maxTokens);
    const tokenIds = encoder.encode(messages, input.history);
    if (tokenIds.length > maxTokens) throw tooLong(tokenIds.length, maxTokens);
    return { tokenIds, droppedMessages: 0 };
  }
  if (numChars(messages) <= maxTokens * HOPELESS_CHARS_PER_TOKEN) {
    const tokenIds = encoder.encode(messages, input.history);
    if (tokenIds.length <= maxTokens) return { tokenIds, droppedMessages: 0 };
  }
  return shorten(encoder, messages, maxTokens, maxChars);
}

/** Keeps the leading system message and as many of the newest turns as fit. */
function shorten(
  encoder: ConversationEncoder,
  messages: readonly ChatMessage[],
  maxTokens: number,
  maxChars: number,
): EncodedPrompt {
  const head = messages[0]?.role === 'system' ? 1 : 0;
  const starts: number[] = [];
  for (let i = head; i < messages.length; i++) {
    if (messages[i]?.role === 'user' || i === head) starts.push(i);
  }
  const turns = (number: number): ChatMessage[] => {
    const from = starts[starts.length - number] ?? messages.length;
    return [...messages.slice(0, head), ...messages.slice(from)];
  };
  const newest = turns(Math.min(1, starts.length));
  if (numChars(newest) > maxChars) throw unreadable(newest, maxTokens);
  let fits = encoder.encode(newest, null);
  if (fits.length > maxTokens) throw tooLong(fits.length, maxTokens);
  // Doubling from the newest turn, then halving the gap: what is encoded is a small multiple of what fits, however
  // long the conversation is, and pieces already encoded are remembered.
  let low = Math.min(1, starts.length);
  let high = starts.length + 1;
  while (low + 1 < high) {
    const isDoubling = high > starts.length;
    const tried = isDoubling ? Math.min(low * 2, starts.length) : (low + high) >> 1;
    const kept = turns(tried);
    const ids = numChars(kept) > maxChars ? null : encoder.encode(kept, null);
    if (ids !== null && ids.length <= maxTokens) {
      low = tried;
      fits = ids;
    } else {
      high = tried;
    }
  }
  const from = starts[starts.length - low] ?? messages.length;
  return { tokenIds: fits, droppedMessages: from - head };
}

/** Encodes variants of one conversation and remembers the pieces between special tokens, also beyond what its tenant's memory holds. */
class ConversationEncoder {
  readonly #parts: PromptParts;
  readonly #tools: readonly ToolDefinition[];
  readonly #pieces = new Map<string, readonly number[]>();

  constructor(parts: PromptParts, tools: readonly ToolDefinition[]) {
    this.#parts = parts;
    this.#tools = tools;
  }

  encode(messages: readonly ChatMessage[], history: readonly number[] | null): number[] {
    const { template, specials, bytes } = this.#parts;
    const full = specials.mark(template.render(messages, this.#tools));
    if (history !== null && history.length > 0 && history.every((id) => id >= 0 && id < bytes.numIds)) {
      const past = this.#spell(history);
      if (continues(full, past, specials)) return [...history, ...this.#encodeFrom(full, past.text.length)];
    }
    return this.#encodeFrom(full, 0);
  }

  #encodeFrom(full: MarkedText, offset: number): number[] {
    const ids: number[] = [];
    let at = offset;
    let isSectionStart = offset === 0;
    const encodePiece = (end: number): void => {
      if (end <= at) return;
      const place = at === 0 ? 'first' : isSectionStart ? 'section' : 'inner';
      const text = full.text.slice(at, end);
      for (const id of this.#piece(text, place)) ids.push(id);
    };
    for (const mark of full.marks) {
      if (mark.start < offset) {
        isSectionStart = mark.end === offset;
        continue;
      }
      encodePiece(mark.start);
      ids.push(mark.id);
      at = mark.end;
      isSectionStart = true;
    }
    encodePiece(full.text.length);
    return ids;
  }

  #piece(text: string, place: Place): readonly number[] {
    const { plain, known } = this.#parts;
    const key = place + text;
    let piece = this.#pieces.get(key) ?? known?.get(key);
    if (piece === undefined) {
      piece = plain.encode(text, place);
      known?.add(key, piece);
    }
    this.#pieces.set(key, piece);
    return piece;
  }

  /** Ids → their text, special tokens spelled out and marked. */
  #spell(ids: readonly number[]): MarkedText {
    const { specials, bytes, plain } = this.#parts;
    const marks: Mark[] = [];
    let text = '';
    let runStart = 0;
    // The tokenizer's own prefix space is no text. Behind `<think>` and the like a space is the model's, and text.
    let place: Place = 'first';
    const endRun = (end: number): void => {
      if (end === runStart) return;
      const piece = bytes.decode(ids, runStart, end);
      text += plain.addsPrefixSpace(place) && piece.startsWith(' ') ? piece.slice(1) : piece;
    };
    for (const [at, id] of ids.entries()) {
      const token = specials.byId.get(id);
      if (token === undefined) continue;
      endRun(at);
      runStart = at + 1;
      marks.push({ start: text.length, end: text.length + token.content.length, id });
      text += token.content;
      place = token.isSpecial ? 'section' : 'inner';
    }
    endRun(ids.length);
    return { text, marks };
  }
}

/**
 * Whether `full` goes on where `past` ends. Control tokens must stand at the same places in both. Added tokens that
 * show as text (`<think>`) may be ids in the past and text in the render: the model wrote them, the caller repeats them.
 */
function continues(full: MarkedText, past: MarkedText, specials: SpecialTokens): boolean {
  const end = past.text.length;
  if (full.text.length < end || !full.text.startsWith(past.text)) return false;
  if (full.marks.some((mark) => mark.start < end && mark.end > end)) return false;
  const isControl = (mark: Mark): boolean => specials.byId.get(mark.id)?.isSpecial ?? false;
  const before = full.marks.filter((mark) => mark.start < end && isControl(mark));
  const own = past.marks.filter(isControl);
  return (
    before.length === own.length && own.every((mark, i) => before[i]?.start === mark.start && before[i]?.id === mark.id)
  );
}
