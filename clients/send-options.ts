// How an answer is asked for: the options that `session.send`, `client.create` and `client.watch` have in common, and
// what of them goes to the server with the handle.
import type {
  LatencyClass,
  ResponseFormat,
  ToolCall,
  ToolChoice,
  ToolDefinition,
  ViewOptions,
} from '../protocol/messages.ts';
import type { SamplingParams } from '../protocol/sampling.ts';
import type { ResponseState } from './response-events.ts';
import type { Supersede } from './watch.ts';

/** What the caller wants to hear of an answer while it runs. */
export interface ResponseListeners {
  /** Aborting cancels the answer; `finished` then fulfils with reason `cancelled`. */
  signal?: AbortSignal;
  /** Called as each tool call is complete. */
  onToolCall?: (call: ToolCall) => void;
  /** Called on every change of its state; with it the server tells queue, prefill and parking too (`states`). */
  onState?: (state: ResponseState) => void;
}

/** Sampling for this answer alone, and how to run it. */
export interface SendOptions extends Partial<SamplingParams>, ViewOptions, ResponseListeners {
  /** Text events carry the tokens' log-probabilities, each with so many alternatives (0 to 20). */
  logprobs?: number;
  tools?: ToolDefinition[];
  /** Which tools may, or must, be called. With it, or with a `strict` tool, calls arrive as they are written. */
  toolChoice?: ToolChoice;
  /** False: one call at most. */
  parallelToolCalls?: boolean;
  /** Form that the text is held to: a JSON schema, any JSON object, or a pattern. */
  responseFormat?: ResponseFormat;
  truncation?: 'auto' | 'error';
  /** Milliseconds after which the answer is of no use. */
  deadlineMs?: number;
  /** Another latency class than the session's. */
  class?: LatencyClass;
  /**
   * Cancels and replaces in one step: all that runs in this session (`lane`), an answer of this client, or a response
   * id. The turn it replaces leaves no trace in the conversation, and its prompt's memory is used again.
   */
  supersede?: Supersede;
}

/** What a handle's frames are to carry; `logprobs` is a number in Create and then simply `true` in Resume. */
export type View = ViewOptions & { logprobs?: number };

/** The view options that the server is to know; a listener of states asks for them. */
export function viewOf(options: {
  offsets: boolean | undefined;
  sentences: boolean | undefined;
  states: boolean | undefined;
  logprobs: number | undefined;
  onState: ResponseListeners['onState'] | undefined;
}): View {
  const view: View = {};
  if (options.offsets !== undefined) view.offsets = options.offsets;
  if (options.sentences !== undefined) view.sentences = options.sentences;
  if (options.states ?? options.onState !== undefined) view.states = true;
  if (options.logprobs !== undefined) view.logprobs = options.logprobs;
  return view;
}

/** Attaches the listeners to a response that was just made. */
export function listen(
  response: {
    onToolCall: ((call: ToolCall) => void) | null;
    onState(listener: (state: ResponseState) => void): unknown;
  },
  { onToolCall, onState }: ResponseListeners,
): void {
  response.onToolCall = onToolCall ?? null;
  if (onState !== undefined) response.onState(onState);
}
