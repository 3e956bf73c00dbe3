// What a response tells beside its text, as types: its events, its states, the sentences in it. Public.
import type {
  FinishReason,
  LiveState,
  StateDetail,
  Timings,
  TokenLogprob,
  ToolCall,
  Usage,
} from '../protocol/messages.ts';

/** Why an answer ended as `cancelled`. */
export type CancelCause =
  /** `cancel()` or an AbortSignal here. */
  | 'caller'
  /** A later answer replaced it. */
  | 'supersede'
  /** The server did: nobody was connected for longer than it waits, nobody read, or someone else cancelled. */
  | 'server';

export interface Finished {
  /** The whole text. */
  text: string;
  /** `error` never appears here: it rejects. */
  reason: FinishReason;
  /** Who ended it; null unless reason is `cancelled`. */
  cancelledBy: CancelCause | null;
  usage: Usage;
  /** Measured on the server, milliseconds. */
  timings: Timings;
  toolCalls: ToolCall[];
}

/** One event of an answer; `seq` is the last event of the server's log that it covers. */
export type ResponseEvent =
  | {
      type: 'text';
      seq: number;
      text: string;
      /** Of its first character in the answer's text, UTF-16 code units. */
      offset: number;
      /** Offsets before which sentences end, certain from now on; only with option `sentences`. */
      sentenceEnds: readonly number[];
      /** Tokens that became certain, with their log-probabilities; only with option `logprobs`. */
      tokens?: readonly TokenLogprob[];
    }
  | { type: 'toolBegin'; seq: number; index: number; id: string; name: string }
  | { type: 'toolDelta'; seq: number; index: number; text: string }
  | { type: 'toolEnd'; seq: number; index: number; call: ToolCall };

/** What is happening to an answer. `waiting` and `resumed` come whenever a connection is lost and found again. */
export type ResponseState =
  /** Waits for a connection: to be sent, or to go on behind event `lastSeq`. */
  | { state: 'waiting'; lastSeq: number }
  | { state: 'sent' }
  /** The server has accepted it. */
  | { state: 'created' }
  /** Goes on behind event `lastSeq` on another connection. */
  | { state: 'resumed'; lastSeq: number }
  /** Told by the server, with option `states`. */
  | ({ state: LiveState } & StateDetail)
  | { state: 'ended'; reason: FinishReason };

/** A sentence of the answer, without the white space around it. */
export interface Sentence {
  text: string;
  /** Offsets in the answer's text. */
  start: number;
  end: number;
}

/** Groups events into sentences; what stands behind the last end is complete with a tool call or the end. */
export async function* sentencesOf(events: AsyncIterable<ResponseEvent>): AsyncGenerator<Sentence, void, undefined> {
  /** Text not yielded yet, and the offset of its first character. */
  let rest = '';
  let from: number | null = null;
  const take = (numChars: number): Sentence[] => {
    const piece = rest.slice(0, numChars);
    const start = (from ?? 0) + piece.length - piece.trimStart().length;
    rest = rest.slice(numChars);
    from = (from ?? 0) + numChars;
    const text = piece.trim();
    return text === '' ? [] : [{ text, start, end: start + text.length }];
  };
  for await (const event of events) {
    if (event.type === 'text') {
      from ??= event.offset;
      rest += event.text;
      for (const end of event.sentenceEnds) if (end > from) yield* take(end - from);
    } else if (event.type === 'toolBegin') {
      yield* take(rest.length);
    }
  }
  yield* take(rest.length);
}
