// An engine that plays scripts, one event per request and step, so that tests of responses, sessions, sockets and
// HTTP decide what is generated and when. It keeps the contract of src/engine/types.ts: events never arrive during
// submit, onEnd comes last and once, cancels take effect at the next step, onStepEnd follows each step's events.
import type { ServiceError } from '../../../protocol/errors.ts';
import type { ModelInfo, TokenLogprob } from '../../../protocol/messages.ts';
import type { Engine, EngineGaugesView, EngineSink, SubmitOptions } from '../../../src/engine/types.ts';
import type { EndReason } from '../../../workers/messages/events.ts';
import type { PromptInput } from '../../../workers/messages/requests.ts';

/** A string is one token with that text; the rest are the other sink calls. */
export type ScriptEvent =
  | string
  | { text: string }
  | { logprobs: TokenLogprob[] }
  | { toolBegin: string; index: number }
  | { toolDelta: string; index: number }
  | { toolEnd: number }
  | { end: EndReason; error?: ServiceError };

export interface FakeRequest {
  id: number;
  options: SubmitOptions;
  sink: EngineSink;
  /** What is still to come; a test may change it. An empty script ends with `stop`. */
  script: ScriptEvent[];
  isStarted: boolean;
  isCancelled: boolean;
  isHeld: boolean;
  isParked: boolean;
}

export const fakeModel: ModelInfo = {
  id: 'fake',
  aliases: ['default'],
  contextLength: 4096,
  preset: {},
  tools: true,
  note: 'Plays scripts.',
};

export class FakeEngine implements Engine {
  readonly model: ModelInfo;
  isReady = true;
  progress: Engine['progress'] = null;
  onStepEnd: ((isCollected: boolean) => void) | null = null;
  /** Events of the next requests, for each of their choices. */
  script: (options: SubmitOptions, choice: number) => ScriptEvent[] = () => ['Hello', ' world', '.'];
  /** When set, submit throws it. */
  refuse: ServiceError | null = null;
  /** Requests not ended, in order of submission. */
  readonly active = new Map<number, FakeRequest>();
  /** Options of every submit ever. */
  readonly submitted: SubmitOptions[] = [];
  readonly cancelled: number[] = [];
  readonly forgotten: string[] = [];
  /** Calls of park and unpark that changed something, in order. */
  readonly parkings: ['park' | 'unpark', number][] = [];
  now: () => number = () => performance.timeOrigin + performance.now();
  #nextId = 1;
  #nextToken = 1000;

  constructor(model: ModelInfo = fakeModel) {
    this.model = model;
  }

  /** Requests of others that wait for a place, besides those that have not been stepped yet. */
  othersWaiting = 0;

  get gauges(): EngineGaugesView {
    const notStarted = [...this.active.values()].filter((request) => !request.isStarted).length;
    const waiting = notStarted + this.othersWaiting;
    const running = this.active.size - notStarted;
    return {
      waiting,
      running,
      residentSlots: 0,
      kvUsedTokens: 0,
      kvBytesPerToken: 0,
      kvReservedBytes: 0,
      hookMisses: 0,
    };
  }

  submit(options: SubmitOptions, sinks: readonly EngineSink[]): number[] {
    if (this.refuse !== null) throw this.refuse;
    this.submitted.push(options);
    return sinks.map((sink, choice) => this.#add(options, sink, choice));
  }

  #add(options: SubmitOptions, sink: EngineSink, choice: number): number {
    const id = this.#nextId++;
    const script = this.script(options, choice);
    this.active.set(id, {
      id,
      options,
      sink,
      script,
      isStarted: false,
      isCancelled: false,
      isHeld: false,
      isParked: false,
    });
    return id;
  }

  cancel(id: number): void {
    const request = this.active.get(id);
    if (request === undefined) return;
    request.isCancelled = true;
    this.cancelled.push(id);
  }

  park(id: number): void {
    const request = this.active.get(id);
    if (request === undefined || request.isParked) return;
    request.isParked = true;
    this.parkings.push(['park', id]);
  }

  unpark(id: number): void {
    const request = this.active.get(id);
    if (request === undefined || !request.isParked) return;
    request.isParked = false;
    this.parkings.push(['unpark', id]);
  }

  forget(session: string): void {
    this.forgotten.push(session);
  }

  /** As many as the prompts of its requests have. */
  countTokens(prompt: PromptInput): Promise<number> {
    return Promise.resolve(this.#promptIds({ prompt }).length);
  }

  /** One event for every request that is not held (the first step of a request also plays encode and prefill). */
  step(): void {
    for (const request of this.active.values()) {
      if (request.isCancelled) this.#end(request, 'cancelled', null);
      else if (!request.isHeld && !request.isParked) this.#advance(request);
    }
    this.onStepEnd?.(false);
  }

  /** Steps until nothing is active, or at most `maxSteps` times. */
  run(maxSteps = 10_000): void {
    for (let step = 0; step < maxSteps && this.active.size > 0; step++) this.step();
  }

  #advance(request: FakeRequest): void {
    const { sink } = request;
    if (!request.isStarted) {
      request.isStarted = true;
      const ids = this.#promptIds(request.options);
      sink.onEncoded(ids.length, 0);
      if (request.options.session !== '') sink.onPrompt(Int32Array.from(ids));
      sink.onPrefill(0);
    }
    const event = request.script.shift() ?? { end: 'stop' as const };
    if (typeof event === 'string') sink.onToken(this.#nextToken++, event, this.now());
    else if ('logprobs' in event) {
      sink.onLogprobs(event.logprobs);
      // They travel with the token behind them.
      this.#advance(request);
    } else if ('text' in event) sink.onText(event.text);
    else if ('toolBegin' in event) sink.onToolBegin(event.index, event.toolBegin);
    else if ('toolDelta' in event) sink.onToolDelta(event.index, event.toolDelta);
    else if ('toolEnd' in event) sink.onToolEnd(event.toolEnd);
    else this.#end(request, event.end, event.error ?? null);
  }

  #end(request: FakeRequest, reason: EndReason, error: ServiceError | null): void {
    this.active.delete(request.id);
    request.sink.onEnd(reason, error);
  }

  /** One id per character of the prompt's last message, after the history. */
  #promptIds({ prompt }: Pick<SubmitOptions, 'prompt'>): number[] {
    if (prompt.kind !== 'chat') return prompt.tokenIds;
    const last = prompt.messages.at(-1)?.content ?? '';
    return [...(prompt.history ?? []), ...Array.from(last, (character) => character.codePointAt(0) ?? 0)];
  }
}

/** A script: some text, then one call in pieces. */
export const callScript = () => [
  'Let me see.',
  { toolBegin: 'look', index: 0 },
  { toolDelta: '{"at":', index: 0 },
  { toolDelta: '"sky"}', index: 0 },
  { toolEnd: 0 },
  { end: 'tool_calls' as const },
];
