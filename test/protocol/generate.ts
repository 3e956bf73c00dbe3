// Seeded random messages of every op, valid by protocol/README.md. Used by the round-trip and fuzz tests.
// `clientOps` and `serverOps` are typed by Op, so a new op without a generator does not compile.
import { Op, latencyClasses } from '../../protocol/messages.ts';
import type { ChatMessage, ClientMessage, FinishReason, ServerMessage, SessionInfo } from '../../protocol/messages.ts';
import type {
  CreateOptions,
  Delta,
  HelloOptions,
  LiveState,
  ModelInfo,
  ResumeOptions,
} from '../../protocol/messages.ts';
import type { SessionOptions, StateDetail, ToolDefinition, ViewOptions, WireError } from '../../protocol/messages.ts';
import type { TokenAlternative, TokenLogprob } from '../../protocol/messages.ts';
import type { ResponseFormat, ToolChoice } from '../../protocol/messages.ts';
import { samplingRanges } from '../../protocol/sampling.ts';
import type { SamplingParams } from '../../protocol/sampling.ts';
import { random } from '../support/random.ts';

const ALPHABET = [
  'a',
  'Z',
  '0',
  ' ',
  '\n',
  '"',
  '\\',
  '\0',
  'é',
  'ß',
  '世',
  '界',
  '。',
  '😀',
  '👩‍🚀',
  '\u200d',
  '\uffff',
];
const liveStates: LiveState[] = ['queued', 'prefilling', 'running', 'parked'];
const finishReasons: FinishReason[] = ['stop', 'length', 'tool_calls', 'content_filter', 'cancelled', 'error'];

export class Random {
  /** 0 ≤ x < 1 */
  readonly next: () => number;

  constructor(seed: number) {
    this.next = random(seed);
  }

  /** An integer, bounds included; small ones are as likely as large ones. */
  int(min: number, max: number): number {
    const span = this.chance(0.5) ? Math.min(max - min, 200) : max - min;
    return Math.min(max, min + Math.floor(this.next() * (span + 1)));
  }

  chance(probability: number): boolean {
    return this.next() < probability;
  }

  pick<T>(values: readonly T[]): T {
    return values[Math.floor(this.next() * values.length)] as T;
  }

  text(min: number, max: number): string {
    let result = '';
    const length = this.int(min, max);
    while (result.length < length) result += this.pick(ALPHABET);
    return result.length > max ? 'x'.repeat(max) : result;
  }

  list<T>(min: number, max: number, make: (index: number) => T): T[] {
    return Array.from({ length: this.int(min, max) }, (_, index) => make(index));
  }

  /** Each field with probability one half. */
  some<T extends object>(make: { [K in keyof T]-?: () => T[K] }): Partial<T> {
    const result: Partial<T> = {};
    for (const key of Object.keys(make) as (keyof T)[]) if (this.chance(0.5)) result[key] = make[key]();
    return result;
  }
}

const MAX_ID = 2 ** 31 - 1;
const id = (r: Random): string => r.text(1, 128);
const lane = (r: Random): number => r.int(0, MAX_ID);
const handle = (r: Random): number => r.int(1, MAX_ID);
const seq = (r: Random): number => r.int(1, Number.MAX_SAFE_INTEGER);

function sampling(r: Random): Partial<SamplingParams> {
  const float = ([min, max]: readonly [number, number]) => min + r.next() * (max - min);
  const whole = ([min, max]: readonly [number, number]) => r.int(min, max);
  return r.some<SamplingParams>({
    temperature: () => float(samplingRanges.temperature),
    topK: () => whole(samplingRanges.topK),
    topP: () => float(samplingRanges.topP),
    minP: () => float(samplingRanges.minP),
    repetitionPenalty: () => float(samplingRanges.repetitionPenalty),
    presencePenalty: () => float(samplingRanges.presencePenalty),
    frequencyPenalty: () => float(samplingRanges.frequencyPenalty),
    logitBias: () =>
      r.chance(0.3)
        ? null
        : Object.fromEntries(r.list(0, 20, () => [String(r.int(0, 150_000)), float(samplingRanges.logitBias)])),
    seed: () => (r.chance(0.3) ? null : r.int(-(2 ** 40), 2 ** 52)),
    maxTokens: () => (r.chance(0.3) ? null : whole(samplingRanges.maxTokens)),
    stop: () => r.list(0, 8, () => r.text(1, 256)),
    ignoreEos: () => r.chance(0.5),
  });
}

function tools(r: Random): ToolDefinition[] {
  return r.list(0, 4, (index) => ({
    name: `tool_${index}-${r.int(0, 999)}`,
    ...(r.chance(0.5) ? { description: r.text(0, 60) } : {}),
    ...(r.chance(0.3) ? { strict: r.chance(0.5) } : {}),
    ...(r.chance(0.5) ? { parameters: { type: 'object', properties: { [r.text(1, 9)]: { minimum: r.next() } } } } : {}),
  }));
}

function toolChoice(r: Random): ToolChoice {
  const named = () => ({ type: 'function' as const, name: `f_${r.int(0, 99)}` });
  const mode = r.pick(['auto', 'required'] as const);
  return r.pick<ToolChoice>([
    'none',
    mode,
    named(),
    { type: 'allowed_tools', mode, tools: [named(), ...r.list(0, 3, named)] },
  ]);
}

function responseFormat(r: Random): ResponseFormat {
  return r.pick<ResponseFormat>([
    { type: 'text' },
    { type: 'json_object' },
    { type: 'regex', pattern: r.text(1, 40) },
    {
      type: 'json_schema',
      name: `s-${r.int(0, 99)}`,
      ...r.some<{ description: string; schema: Record<string, unknown>; strict: boolean }>({
        description: () => r.text(0, 40),
        schema: () => ({ type: 'object', properties: { [r.text(1, 9)]: { type: 'null' } } }),
        strict: () => r.chance(0.5),
      }),
    },
  ]);
}

function message(r: Random, roles: readonly ChatMessage['role'][]): ChatMessage {
  const role = r.pick(roles);
  const result: ChatMessage = { role, content: r.text(0, 300) };
  if (r.chance(0.2)) result.name = r.text(1, 64);
  if (role === 'tool') result.toolCallId = id(r);
  if (role === 'assistant' && r.chance(0.3)) {
    result.toolCalls = r.list(0, 3, () => ({ id: id(r), name: `f${r.int(0, 99)}`, arguments: r.text(0, 80) }));
  }
  return result;
}

const anyRole = ['system', 'user', 'assistant', 'tool'] as const;
const messages = (r: Random, min: number): ChatMessage[] => r.list(min, 6, () => message(r, anyRole));
const truncation = (r: Random): 'auto' | 'error' => r.pick(['auto', 'error'] as const);

function sessionOptions(r: Random): SessionOptions {
  if (r.chance(0.2)) return { session: id(r) };
  return r.some<Omit<SessionOptions, 'session'>>({
    model: () => r.text(1, 40),
    system: () => r.text(0, 200),
    tools: () => tools(r),
    messages: () => messages(r, 0),
    sampling: () => sampling(r),
    truncation: () => truncation(r),
  });
}

const view = (r: Random): { [K in keyof ViewOptions]-?: () => boolean } => ({
  offsets: () => r.chance(0.5),
  sentences: () => r.chance(0.5),
  states: () => r.chance(0.5),
});

function resumeOptions(r: Random): ResumeOptions {
  const lastSeq = r.chance(0.2) ? 0 : seq(r);
  const position = lastSeq === 0 && r.chance(0.5) ? { lastSeq } : { epoch: id(r), lastSeq };
  return {
    response: id(r),
    ...position,
    ...r.some<ViewOptions>(view(r)),
    ...(r.chance(0.3) ? { logprobs: true } : {}),
  };
}

function createOptions(r: Random): CreateOptions {
  const inSession = r.chance(0.5);
  const rest = r.some<Omit<CreateOptions, 'session' | 'messages' | 'model'>>({
    tools: () => tools(r),
    toolChoice: () => toolChoice(r),
    parallelToolCalls: () => r.chance(0.5),
    responseFormat: () => responseFormat(r),
    sampling: () => sampling(r),
    class: () => r.pick(latencyClasses),
    truncation: () => truncation(r),
    deadlineMs: () => r.int(1, MAX_ID),
    supersede: () => (r.chance(0.5) ? handle(r) : id(r)),
    logprobs: () => r.int(0, 20),
    ...view(r),
  });
  return inSession
    ? { session: id(r), messages: r.list(1, 3, () => message(r, ['user', 'tool'])), ...rest }
    : { messages: messages(r, 1), ...(r.chance(0.5) ? { model: r.text(1, 40) } : {}), ...rest };
}

function sessionInfo(r: Random): SessionInfo {
  const createdAtMs = r.int(0, 2 ** 42);
  return { session: id(r), model: id(r), createdAtMs, numTurns: r.int(0, 99), title: r.text(0, 80), active: [id(r)] };
}

function wireError(r: Random): WireError {
  const extra = r.some<{ param: string; retryAfterMs: number }>({
    param: () => r.text(1, 40),
    retryAfterMs: () => r.int(0, 1e6),
  });
  return { code: r.text(1, 20), message: r.text(0, 120), retryable: r.chance(0.5), ...extra };
}

type Make<M> = (r: Random) => M;
type Of<M extends [number, ...unknown[]], O> = Extract<M, [O, ...unknown[]]>;
type ClientOp = ClientMessage[0];
type ServerOp = ServerMessage[0];

const clientOps: { [O in ClientOp]: Make<Of<ClientMessage, O>> } = {
  [Op.Hello]: (r) => {
    const options = { token: () => r.text(1, 90), client: () => r.text(0, 40), instance: () => r.text(16, 128) };
    return [Op.Hello, 0, r.int(0, 9), r.some<HelloOptions>(options)];
  },
  [Op.OpenLane]: (r) => [Op.OpenLane, handle(r), r.some({ class: () => r.pick(latencyClasses) })],
  [Op.CloseLane]: (r) => [Op.CloseLane, handle(r)],
  [Op.OpenSession]: (r) => [Op.OpenSession, lane(r), id(r), sessionOptions(r)],
  [Op.ListSessions]: (r) => [Op.ListSessions, lane(r), id(r)],
  [Op.History]: (r) => {
    const page = [r.int(0, 1000), r.int(1, 1000)].slice(0, r.int(0, 2)) as [start?: number, count?: number];
    return [Op.History, lane(r), id(r), id(r), ...page];
  },
  [Op.Rollback]: (r) => [Op.Rollback, lane(r), id(r), id(r), r.int(0, 1000)],
  [Op.Fork]: (r) => [Op.Fork, lane(r), id(r), id(r), r.int(0, 1000)],
  [Op.CloseSession]: (r) => [Op.CloseSession, lane(r), id(r), id(r)],
  [Op.Create]: (r) => [Op.Create, lane(r), id(r), createOptions(r)],
  [Op.Cancel]: (r) =>
    r.chance(0.5) ? [Op.Cancel, lane(r), handle(r)] : [Op.Cancel, lane(r), handle(r), r.int(0, 2 ** 40)],
  [Op.Ack]: (r) => [Op.Ack, lane(r), handle(r), seq(r)],
  [Op.Ping]: (r) => [Op.Ping, lane(r), r.chance(0.5) ? r.int(-(2 ** 40), 2 ** 52) : r.text(0, 128)],
  [Op.Resume]: (r) => [Op.Resume, lane(r), id(r), resumeOptions(r)],
};

function delta(r: Random): Delta {
  const text: Delta = [handle(r), seq(r), r.text(0, 20)];
  if (r.chance(0.5)) text.push(r.int(0, 1e6));
  if (text.length === 4 && r.chance(0.5)) text.push(r.list(1, 3, () => r.int(0, 1e6)));
  if (text.length === 5 && r.chance(0.5)) text.push(r.list(1, 3, () => tokenLogprob(r)));
  return text;
}

function tokenLogprob(r: Random): TokenLogprob {
  const one = (): TokenAlternative => [
    r.text(0, 9),
    -r.next() * 20,
    r.chance(0.2) ? null : r.list(1, 9, () => r.int(0, 255)),
  ];
  return [...one(), r.list(0, 20, one)];
}

function modelInfo(r: Random): ModelInfo {
  const about = { preset: sampling(r), tools: r.chance(0.5), note: r.text(0, 80) };
  return { id: id(r), aliases: r.list(0, 3, () => id(r)), contextLength: r.int(0, 1e6), ...about };
}

const serverOps: { [O in ServerOp]: Make<Of<ServerMessage, O>> } = {
  [Op.Welcome]: (r) => {
    const models = r.list(0, 2, () => modelInfo(r));
    const limits = Object.fromEntries(r.list(0, 30, (index) => [`limit${index}`, r.int(0, 2 ** 40)]));
    return [Op.Welcome, 0, 1, { server: id(r), connection: id(r), models, limits }];
  },
  [Op.LaneOpened]: (r) => [Op.LaneOpened, lane(r)],
  [Op.LaneClosed]: (r) => [Op.LaneClosed, lane(r)],
  [Op.SessionOpened]: (r) => [Op.SessionOpened, lane(r), id(r), sessionInfo(r)],
  [Op.Sessions]: (r) => [Op.Sessions, lane(r), id(r), r.list(0, 20, () => sessionInfo(r))],
  [Op.SessionHistory]: (r) => [
    Op.SessionHistory,
    lane(r),
    id(r),
    id(r),
    messages(r, 0),
    r.chance(0.5) ? null : r.int(1, 1000),
  ],
  [Op.SessionClosed]: (r) => [Op.SessionClosed, lane(r), id(r), id(r)],
  [Op.Created]: (r) => [Op.Created, lane(r), id(r), handle(r), id(r), id(r), r.chance(0.5) ? null : id(r)],
  [Op.Deltas]: (r) => [Op.Deltas, 0, r.list(0, 40, () => delta(r))],
  [Op.ToolBegin]: (r) => [Op.ToolBegin, lane(r), handle(r), seq(r), r.int(0, 9), id(r), id(r)],
  [Op.ToolDelta]: (r) => [Op.ToolDelta, lane(r), handle(r), seq(r), r.int(0, 9), r.text(0, 20)],
  [Op.ToolEnd]: (r) => [Op.ToolEnd, lane(r), handle(r), seq(r), r.int(0, 9)],
  [Op.Done]: (r) => {
    const tokens = { promptTokens: r.int(0, 1e6), cachedTokens: r.int(0, 1e6), completionTokens: r.int(0, 1e6) };
    const timings = { queuedMs: r.next(), prefillMs: r.next() * 100, ttftMs: r.next() * 1e6, totalMs: r.int(0, 1e9) };
    const usage = { ...tokens, droppedMessages: r.int(0, 50) };
    const error = r.chance(0.5) ? null : wireError(r);
    return [Op.Done, lane(r), handle(r), seq(r), r.pick(finishReasons), usage, timings, error];
  },
  [Op.Cancelled]: (r) => [Op.Cancelled, lane(r), handle(r), seq(r)],
  [Op.Error]: (r) => [Op.Error, lane(r), r.chance(0.5) ? null : id(r), wireError(r)],
  [Op.Pong]: (r) => [Op.Pong, lane(r), r.chance(0.5) ? r.int(-(2 ** 40), 2 ** 52) : r.text(0, 128)],
  [Op.Goaway]: (r) => [Op.Goaway, 0, id(r), r.int(0, 1e6)],
  [Op.Resumed]: (r) => {
    const orNull = <T>(make: (from: Random) => T): T | null => (r.chance(0.7) ? make(r) : null);
    return [Op.Resumed, lane(r), id(r), r.chance(0.5), orNull(handle), id(r), orNull(id), orNull(id)];
  },
  [Op.State]: (r) => {
    const count = (): number => r.int(0, 1e6);
    const detail = r.some<StateDetail>({ position: count, promptTokens: count, cachedTokens: count });
    return [Op.State, lane(r), handle(r), r.pick(liveStates), detail];
  },
  [Op.Models]: (r) => [Op.Models, 0, r.list(0, 8, () => modelInfo(r))],
};

const makeClient = Object.values(clientOps) as Make<ClientMessage>[];
const makeServer = Object.values(serverOps) as Make<ServerMessage>[];

/** The op of case `index` takes turns, so that every op appears. */
export const clientMessage = (r: Random, index: number): ClientMessage =>
  (makeClient[index % makeClient.length] as Make<ClientMessage>)(r);
export const serverMessage = (r: Random, index: number): ServerMessage =>
  (makeServer[index % makeServer.length] as Make<ServerMessage>)(r);
