// Main thread → engine worker: what a worker is started with, and what is asked of it.
import type { ChatMessage, LatencyClass, ToolDefinition } from '../../protocol/messages.ts';
import type { SamplingParams } from '../../protocol/sampling.ts';
import type { CompiledModel } from './models.ts';
import type { GrammarSpec } from './grammar.ts';
import type { EngineShared, SlotLayout } from './shared.ts';
import type { MessagePort } from 'node:worker_threads';

/** Argument of the endless Piscina task of one engine worker. Worker 0 is the lead. */
export interface WorkerInit {
  index: number;
  model: CompiledModel;
  layout: SlotLayout;
  shared: EngineShared;
  ctl: SharedArrayBuffer;
  /** To the main thread. */
  port: MessagePort;
  threads: number;
  /** Guess tokens ahead while one sequence decodes alone. */
  speculation: boolean;
  /** Few streams may decode on all cores, in worker SOLO_WORKER. */
  solo: boolean;
  debugOwners: boolean;
  /** Of the machine, as far as this process may use them. */
  cores: number;
}

/** main → worker */
export type ToWorker =
  | { op: 'submit'; request: EngineRequest }
  /** Lead only: a decode worker's direct port; it answers with its inventory on that port. */
  | { op: 'attach'; index: number; port: MessagePort; ctl: SharedArrayBuffer }
  /** Decode worker only: the lead's end of the direct port. */
  | { op: 'lead'; port: MessagePort; ctl: SharedArrayBuffer }
  /** Lead only: this decode worker died; end what was lent to it. */
  | { op: 'lost'; index: number }
  /** Lead only: forget the KV kept for this session. */
  | { op: 'forget'; session: string };

/** What the engine is asked for. Every response makes one, or is one of the choices of one. */
export interface EngineRequest {
  /** Unique in this process, never reused. */
  id: number;
  /** Index of this request's cancel flag in `EngineShared.flags`; free again once End was processed. */
  flag: number;
  tenant: string;
  /** Of the tenant, for its share of the tokens. */
  weight: number;
  /** Session that will continue from this request's tokens, or ''. */
  session: string;
  class: LatencyClass;
  prompt: PromptInput;
  /** Parse calls of these functions out of the answer; empty: none. */
  toolNames: string[];
  /** Held to token by token, where there is one; it has passed the check (workers/grammar). */
  grammar: GrammarSpec | null;
  sampling: SamplingParams;
  /** Tell each token's log-probability, with those of so many alternatives; null: no. */
  logprobs: number | null;
  /** Number among the choices of one prompt, from 0: it goes into the seed of those after the first. */
  choice: number;
  /** Further choices: the prompt is computed once, and they go on from its KV. All else is as above. */
  others: OtherChoice[];
  /** Epoch milliseconds after which a waiting request is refused; Infinity for none. */
  queueDeadline: number;
  /** Epoch milliseconds after which the answer is of no use; Infinity for none. */
  deadline: number;
}

/** A choice beside the one that its request names: a request of its own to everyone but the encoder. */
export type OtherChoice = Pick<EngineRequest, 'id' | 'flag' | 'choice'>;

/** Prompt of a request, rendered and encoded where the model's text files are. */
export type PromptInput =
  | {
      kind: 'chat';
      messages: ChatMessage[];
      tools: ToolDefinition[];
      /** Token ids of this conversation so far (prompt and answer of the last turn): reused when the template agrees. */
      history: number[] | null;
      truncation: 'auto' | 'error';
    }
  | { kind: 'tokens'; tokenIds: number[] }
  /** Encoded beforehand on the CPU pool. */
  | { kind: 'encoded'; tokenIds: number[]; droppedMessages: number };

/** What the main thread asks of a request, seen by whichever worker holds it at its next step. */
export const Flag = { run: 0, cancel: 1, park: 2 } as const;
