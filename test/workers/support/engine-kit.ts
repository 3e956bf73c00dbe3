// A lead and its decode workers in one thread, stepped by hand over the fake model: the engine's behaviour without
// timing. Messages travel through real ports, so that what crosses a thread here crosses one there.
import { MessageChannel, receiveMessageOnPort } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';
import type { LatencyClass, TokenLogprob } from '../../../protocol/messages.ts';
import { defaultSampling } from '../../../protocol/sampling.ts';
import type { SamplingParams } from '../../../protocol/sampling.ts';
import { allocateShared } from '../../../src/engine/memory.ts';
import { Engine } from '../../../workers/engine.ts';
import type { Grammars } from '../../../workers/grammar/grammars.ts';
import { Ev, endReasons } from '../../../workers/messages/events.ts';
import { Flag } from '../../../workers/messages/requests.ts';
import { Ctl } from '../../../workers/messages/shared.ts';
import type { EngineGauges } from '../../../workers/messages/events.ts';
import type { GrammarSpec } from '../../../workers/messages/grammar.ts';
import type { CompiledModel } from '../../../workers/messages/models.ts';
import type { EngineRequest } from '../../../workers/messages/requests.ts';
import type { EngineShared } from '../../../workers/messages/shared.ts';
import type { FromWorker, Step } from '../../../workers/messages/events.ts';
import type { ToWorker } from '../../../workers/messages/requests.ts';
import type { SlotLayout } from '../../../workers/messages/shared.ts';
import { FAKE_EOS, FAKE_SHAPE, openFakeModel } from '../../../workers/model/fake.ts';
import type { Model } from '../../../workers/model/model.ts';
import { TextModel } from '../../../workers/text/text-model.ts';

export interface Outcome {
  id: number;
  tokens: number[];
  text: string;
  ends: string[];
  error: string;
  cachedTokens: number;
  promptTokens: number;
  promptIds: number[];
  tools: { name: string; arguments: string }[];
  logprobs: TokenLogprob[];
  /** Steps of the whole kit when the last event came. */
  endedAtStep: number;
}

export interface SubmitKnobs {
  session?: string;
  tenant?: string;
  weight?: number;
  class?: LatencyClass;
  tools?: string[];
  /** Needs the kit's `grammars`. */
  grammar?: GrammarSpec;
  deadline?: number;
  queueDeadline?: number;
  /** Tell log-probabilities, with so many alternatives. */
  logprobs?: number;
}

interface KitWorker {
  engine: Engine;
  port: MessagePort;
  ctl: SharedArrayBuffer;
}

export class EngineKit {
  readonly outcomes = new Map<number, Outcome>();
  readonly layout: SlotLayout;
  readonly shared: EngineShared;
  readonly workers: KitWorker[] = [];
  steps = 0;
  /** Of each chunk of prefill: was it said to have the machine for itself? */
  readonly chunksAlone: boolean[] = [];
  /** Called while a chunk is computed. */
  onChunk: () => void = () => undefined;
  /** Prompt tokens computed by all workers so far. */
  numPrefilled = 0;
  /** Tokens in the largest message so far. */
  mostTokens = 0;
  /** Tokens guessed, and of those confirmed, in all workers. */
  drafted = 0;
  accepted = 0;
  #nextId = 1;
  readonly #compiled: CompiledModel;
  readonly #speculation: boolean;
  readonly #grammars: Grammars[];

  constructor(
    options: {
      workers?: number;
      rows?: number;
      homes?: number;
      maxLen?: number;
      budgetTokens?: number;
      prefillUsPerToken?: number;
      speculation?: boolean;
      stepMs?: number;
      /** One for each worker that is to have one; loading them takes a turn of the event loop. */
      grammars?: Grammars[];
    } = {},
  ) {
    const numWorkers = options.workers ?? 1;
    const rowsPerWorker = options.rows ?? 4;
    const maxLen = options.maxLen ?? 512;
    const numSlots = rowsPerWorker * numWorkers + (options.homes ?? rowsPerWorker * numWorkers);
    const budgetTokens = options.budgetTokens ?? numSlots * maxLen;
    this.layout = { rowsPerWorker, numWorkers, numSlots, maxLen, budgetTokens };
    this.shared = allocateShared(FAKE_SHAPE, this.layout, 4096);
    this.#compiled = {
      kind: 'fake',
      products: 'blocks',
      id: 'fake',
      shape: FAKE_SHAPE,
      decodePath: '',
      prefillPath: '',
      verifyGraphs: [],
      textDir: '',
      eosTokenIds: [FAKE_EOS],
      quantization: 'none',
      kvDivergence: 0,
      origin: 'test',
      weightsBytes: 0,
      info: { id: 'fake', aliases: [], contextLength: maxLen, preset: {}, tools: true, note: '' },
      fake: {
        stepMs: options.stepMs ?? 0,
        prefillUsPerToken: options.prefillUsPerToken ?? 0,
        verifyCost: 0.2,
        faults: true,
      },
    };
    this.#speculation = options.speculation ?? false;
    this.#grammars = options.grammars ?? [];
    for (let index = 0; index < numWorkers; index++) this.spawn(index);
    for (let index = 1; index < numWorkers; index++) this.connect(index);
  }

  /** Starts (or replaces) a worker; a replaced one is simply never stepped again. */
  spawn(index: number): void {
    const { port1, port2 } = new MessageChannel();
    const ctl = new SharedArrayBuffer(4 * Ctl.size);
    const { layout, shared } = this;
    // With cores to spare every step is posted at once: what happens here shall not depend on time.
    const rest = { threads: 1, speculation: this.#speculation, solo: false, debugOwners: true, cores: 64 };
    const init = { index, model: this.#compiled, layout, shared, ctl, port: port2, ...rest };
    const model = openFakeModel(this.#compiled, shared, layout);
    const prefill: Model['prefill'] = (slot, ids, past, wantLogits, isAlone) => {
      this.chunksAlone.push(isAlone === true);
      this.onChunk();
      return model.prefill(slot, ids, past, wantLogits);
    };
    const engine = new Engine(init, { ...model, prefill }, TextModel.bytes(), this.#grammars.pop() ?? null);
    this.workers[index] = { engine, port: port1, ctl };
  }

  connect(index: number): void {
    const { port1, port2 } = new MessageChannel();
    const lead = this.workers[0]!;
    const worker = this.workers[index]!;
    this.post(0, { op: 'attach', index, port: port1, ctl: worker.ctl }, [port1]);
    this.post(index, { op: 'lead', port: port2, ctl: lead.ctl }, [port2]);
  }

  post(index: number, message: ToWorker, transfer: MessagePort[] = []): void {
    const worker = this.workers[index]!;
    worker.port.postMessage(message, transfer);
    Atomics.add(new Int32Array(worker.ctl), Ctl.mail, 1);
  }

  submit(content: string | number[], options: Partial<SamplingParams> & SubmitKnobs = {}): number {
    return this.submitChoices(1, content, options)[0]!;
  }

  /** One request with so many choices; their ids. */
  submitChoices(n: number, content: string | number[], options: Partial<SamplingParams> & SubmitKnobs = {}): number[] {
    const {
      session = '',
      tenant = 't',
      tools = [],
      grammar = null,
      deadline = Infinity,
      queueDeadline = Infinity,
      ...rest
    } = options;
    const { class: latencyClass = 'chat', weight = 1, logprobs = null, ...sampling } = rest;
    const [first, ...others] = Array.from({ length: n }, (_, choice) => {
      const id = this.#nextId++;
      return { id, flag: id % 4096, choice };
    });
    const request: EngineRequest = {
      ...first!,
      others,
      logprobs,
      tenant,
      weight,
      session,
      class: latencyClass,
      prompt:
        typeof content === 'string'
          ? { kind: 'chat', messages: [{ role: 'user', content }], tools: [], history: null, truncation: 'auto' }
          : { kind: 'tokens', tokenIds: content },
      toolNames: tools,
      grammar,
      sampling: { ...defaultSampling, temperature: 0, seed: 1, ...sampling },
      queueDeadline,
      deadline,
    };
    const ids = [first!, ...others].map(({ id }) => id);
    for (const id of ids) {
      this.outcomes.set(id, {
        id,
        tokens: [],
        text: '',
        ends: [],
        error: '',
        cachedTokens: -1,
        promptTokens: 0,
        promptIds: [],
        tools: [],
        logprobs: [],
        endedAtStep: 0,
      });
    }
    this.post(0, { op: 'submit', request });
    return ids;
  }

  get gauges(): EngineGauges {
    return this.workers[0]!.engine.gauges!;
  }

  cancel(id: number): void {
    this.flag(id, Flag.cancel);
  }

  flag(id: number, value: number): void {
    Atomics.store(new Int32Array(this.shared.flags), id % 4096, value);
    for (const worker of this.workers) Atomics.add(new Int32Array(worker.ctl), Ctl.mail, 1);
  }

  /** One step of one worker. Returns whether it had work. */
  step(index: number): boolean {
    this.steps++;
    const busy = this.workers[index]!.engine.step() === 0;
    for (let item; (item = receiveMessageOnPort(this.workers[index]!.port));) this.#receive(item.message as FromWorker);
    return busy;
  }

  /** Steps the workers in turn (or as `pick` says) until all requests have ended and nobody has work left. */
  run(pick: (step: number) => number = (step) => step % this.workers.length, maxSteps = 100_000): void {
    let quiet = 0;
    for (let i = 0; i < maxSteps; i++) {
      const busy = this.step(pick(i));
      quiet = busy ? 0 : quiet + 1;
      if (quiet > 4 * this.workers.length && this.#allEnded()) return;
    }
    throw new Error(`not at rest after ${maxSteps} steps: ${JSON.stringify([...this.outcomes.values()].slice(-3))}`);
  }

  outcome(id: number): Outcome {
    return this.outcomes.get(id)!;
  }

  /** Runs one prompt to its end on an otherwise idle kit. */
  answer(content: string | number[], options: Parameters<EngineKit['submit']>[1] = {}): Outcome {
    const id = this.submit(content, options);
    this.run();
    return this.outcome(id);
  }

  #allEnded(): boolean {
    return [...this.outcomes.values()].every((outcome) => outcome.ends.length > 0);
  }

  #receive(message: FromWorker): void {
    if (message.op === 'prompt') this.outcome(message.id).promptIds = [...message.tokenIds];
    if (message.op === 'step') for (const step of message.steps) this.#receiveStep(step);
  }

  #receiveStep({ events, stats, logprobs }: Step): void {
    this.numPrefilled += stats.prefillTokens;
    this.drafted += stats.draftedTokens;
    this.accepted += stats.acceptedTokens;
    this.mostTokens = Math.max(this.mostTokens, events.filter((kind, i) => i % 4 === 0 && kind === Ev.Token).length);
    for (let i = 0; i < events.length; i += 4) {
      const [kind, id, a, b] = events.slice(i, i + 4) as [number, number, number, string];
      const outcome = this.outcome(id);
      if (outcome.ends.length > 0) throw new Error(`event ${kind} of request ${id} after its end`);
      if (kind === Ev.Encoded) outcome.promptTokens = a;
      if (kind === Ev.Prefill) outcome.cachedTokens = a;
      if (kind === Ev.Token) outcome.tokens.push(a);
      if (kind === Ev.Token || kind === Ev.Text) outcome.text += b;
      if (kind === Ev.Logprobs) outcome.logprobs.push(...logprobs![a]!);
      if (kind === Ev.ToolBegin) outcome.tools.push({ name: b, arguments: '' });
      if (kind === Ev.ToolDelta) outcome.tools[a]!.arguments += b;
      if (kind === Ev.End) {
        outcome.ends.push(endReasons[a]!);
        outcome.error = b;
        outcome.endedAtStep = this.steps;
      }
    }
  }
}
