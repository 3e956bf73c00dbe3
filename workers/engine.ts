// The engine loop of one worker thread: drain → schedule → forward → sample → emit, one message to the main thread per
// step, or per few short ones. Worker 0 is the lead and owns a Scheduler; every worker owns a DecodeRange. The methods stand
// in the order in which a step runs them. Then read scheduler.ts (who runs where) and decode-range.ts (how a batch is kept
// contiguous).
import { randomInt } from 'node:crypto';
import { receiveMessageOnPort } from 'node:worker_threads';
import { ServiceError } from '../protocol/errors.ts';
import { DecodeRange } from './decode-range.ts';
import type { LeaveKind } from './decode-range.ts';
import type { Grammars } from './grammar/grammars.ts';
import { KvMemory } from './kv/kv-memory.ts';
import { Link } from './link.ts';
import type { DecodeMessage, LeadMessage } from './link.ts';
import { Haste } from './messages/events.ts';
import { Flag } from './messages/requests.ts';
import { Ctl, SOLO_WORKER } from './messages/shared.ts';
import type { EngineGauges, FromWorker } from './messages/events.ts';
import type { EngineRequest, ToWorker, WorkerInit } from './messages/requests.ts';
import type { Model } from './model/model.ts';
import { Outputs } from './outputs.ts';
import { choiceSeed } from './sampling/rng.ts';
import { Scheduler } from './scheduler.ts';
import { Sequence } from './sequence.ts';
import { SoloModel } from './solo-model.ts';
import { StepPost } from './step-post.ts';
import type { SequenceContext } from './sequence.ts';
import { Speculator } from './speculator.ts';
import type { TextModel } from './text/text-model.ts';

/** Copies between two decode steps may take this long. */
const MOVE_BUDGET_MS = 2;
/** The same while a prompt waits for the own rows to leave. */
const RELEASE_BUDGET_MS = 8;
/** Until an urgent prompt's chunk ends later than this, the own rows wait for one more of them. */
const SHORT_CHUNK_MS = 16;
/** The same after a whole prompt, while no urgent sequence is among the own rows. */
const PATIENT_MS = 48;
const GAUGE_INTERVAL_MS = 100;
/** Longest sleep of a worker without work. */
const IDLE_MS = 1000;

export class Engine {
  readonly #init: WorkerInit;
  readonly #model: Model;
  /** The model again, in the worker that is left few streams to decode on all cores. */
  readonly #solo: SoloModel | null;
  readonly #context: SequenceContext;
  readonly #kv: KvMemory;
  readonly #flags: Int32Array;
  readonly #ctl: Int32Array;
  readonly #busy: Int32Array;
  readonly #steps: StepPost;
  readonly #out = new Outputs();
  readonly #range: DecodeRange;
  /** Null where tokens are not guessed, and until the model can check guesses. */
  #speculator: Speculator | null;
  /** Lead only. */
  readonly #scheduler: Scheduler | null;
  /** Decode worker only: the line to the lead, which may be replaced. */
  #lead: Link<DecodeMessage, LeadMessage> | null = null;
  #seenMail = -1;
  /** The gauges last posted, as JSON, and when they were last looked at. */
  #postedGauges = '';
  #gaugesAtMs = 0;

  constructor(init: WorkerInit, model: Model, text: TextModel, grammars: Grammars | null = null) {
    const { index, layout } = init;
    this.#init = init;
    const isSolo = init.solo && index === SOLO_WORKER;
    this.#solo = isSolo ? new SoloModel(model, init.shared, index, init.model.products) : null;
    this.#model = this.#solo ?? model;
    const { generated } = init.shared;
    this.#context = { text, grammars, vocabSize: model.vocabSize, maxLen: layout.maxLen, generated };
    this.#flags = new Int32Array(init.shared.flags);
    this.#ctl = new Int32Array(init.ctl);
    this.#busy = new Int32Array(init.shared.busy);
    this.#steps = new StepPost(init.port, init.shared, init.cores);
    this.#kv = new KvMemory(init.model.shape, layout, init.shared, index, init.debugOwners);
    const onLeft = (sequence: Sequence, kind: LeaveKind): void => this.#onLeft(sequence, kind);
    this.#range = new DecodeRange(index * layout.rowsPerWorker, layout.rowsPerWorker, this.#kv, onLeft);
    this.#speculator = this.#createSpeculator();
    const soloRows = new Int32Array(init.shared.soloRows);
    this.#scheduler =
      index === 0 ? new Scheduler(model, this.#kv, layout, this.#range, this.#context, this.#out, soloRows) : null;
  }

  /** One round. Returns how many milliseconds the caller may sleep unless the mail counter moves; 0 when there is work. */
  step(): number {
    this.#takeIn();
    this.#setBusy(!this.#range.isIdle || this.#scheduler?.idleMs === 0);
    if (this.#scheduler) this.#prefillInTurn(this.#scheduler);
    this.#decode();
    if (this.#solo?.takeChange() === true) this.#lead?.send({ op: 'solo' });
    this.#move();
    this.#postGauges();
    const idleMs = this.#range.isIdle ? (this.#scheduler?.idleMs ?? IDLE_MS) : 0;
    if (idleMs > 0) {
      this.#steps.flush();
      this.#setBusy(false);
    }
    return idleMs;
  }

  /** In idle time: opens one more part of the model (Model.openNext). False: nothing was left to open. */
  openNext(): boolean {
    if (this.#model.openNext()) return true;
    this.#speculator ??= this.#createSpeculator();
    return false;
  }

  /** Mail counter as of the last drain: what `Atomics.wait` may sleep on. */
  get seenMail(): number {
    return this.#seenMail;
  }

  /** Sequences that decode in this worker. */
  get numDecoding(): number {
    return this.#range.size;
  }

  /** The lead's view of all workers; null in a decode worker. */
  get gauges(): EngineGauges | null {
    return this.#scheduler?.gauges(this.#model.hookMisses) ?? null;
  }

  close(): void {
    this.#scheduler?.close();
    this.#lead?.close();
  }

  // --- 1. taking in: messages, then what has ended, then who is admitted

  #takeIn(): void {
    this.#drain();
    this.#reap();
    this.#scheduler?.admit();
    // Clients learn at once that they were cancelled, queued or admitted.
    if (!this.#out.isEmpty) this.#post();
  }

  get #hasMail(): boolean {
    return Atomics.load(this.#ctl, Ctl.mail) !== this.#seenMail;
  }

  #drain(): void {
    if (!this.#hasMail) return;
    this.#seenMail = Atomics.load(this.#ctl, Ctl.mail);
    for (let item; (item = receiveMessageOnPort(this.#init.port));) this.#receive(item.message as ToWorker);
    this.#scheduler?.receive();
    for (let message; (message = this.#lead?.receive());) this.#obey(message);
  }

  #receive(message: ToWorker): void {
    switch (message.op) {
      case 'submit':
        return this.#submit(message.request);
      case 'attach':
        return this.#scheduler!.attach(message.index, new Link(message.port, message.ctl));
      case 'lost':
        return this.#scheduler!.lost(message.index);
      case 'forget':
        return this.#scheduler!.forget(message.session);
      case 'lead':
        return this.#follow(new Link(message.port, message.ctl));
    }
  }

  /** Renders and encodes the prompt. What is wrong with one request ends that request only. */
  #submit(request: EngineRequest): void {
    const { prompt, others, ...first } = request;
    const choices = [first, ...others.map((other) => ({ ...first, ...other }))];
    try {
      const { text, maxLen } = this.#context;
      const { tokenIds, droppedMessages } =
        prompt.kind === 'encoded' ? prompt : text.encodePrompt(prompt, maxLen - 1, request.tenant);
      const seed = request.sampling.seed ?? randomInt(2 ** 47);
      const [sequence, ...forks] = choices.map((meta) => {
        const start = { meta, ids: [...tokenIds], numPrompt: tokenIds.length, home: -1, homeLength: 0 };
        return new Sequence({ ...start, seed: choiceSeed(seed, meta.choice) }, this.#context);
      });
      sequence!.forks = forks;
      this.#scheduler!.submit(sequence!);
      if (request.session !== '') this.#send({ op: 'prompt', id: request.id, tokenIds: Int32Array.from(tokenIds) });
      for (const { id } of choices) this.#out.encoded(id, tokenIds.length, droppedMessages);
    } catch (error) {
      if (!(error instanceof ServiceError)) throw error;
      for (const { id } of choices) this.#out.end(id, 'error', error.code, error.message);
    }
  }

  /** A (new) lead: tell it and the main thread what is here; what was not lent by it comes back to it all the same. */
  #follow(lead: Link<DecodeMessage, LeadMessage>): void {
    // What the old lead sent before it died still counts.
    for (let message; (message = this.#lead?.receive());) this.#obey(message);
    this.#lead?.close();
    this.#lead = lead;
    const held = this.#range.sequences().map(({ id, home, meta }) => {
      const { tenant, weight, class: latencyClass } = meta;
      return { id, home, claim: { tenant, weight, class: latencyClass } };
    });
    lead.send({ op: 'inventory', held });
    this.#send({ op: 'inventory', ids: held.map(({ id }) => id) });
  }

  #obey(message: LeadMessage): void {
    switch (message.op) {
      case 'lend':
        return this.#range.join(new Sequence(message.sequence, this.#context));
      case 'recall':
        return this.#lead!.send({ op: 'recalled', count: this.#range.release(message.count) });
      case 'yield':
        this.#range.yield(message.id);
        return;
    }
  }

  #reap(): void {
    const now = Date.now();
    const ended = (sequence: Sequence, isWaiting = false): boolean => this.#endIfDue(sequence, now, isWaiting);
    const isParked = (sequence: Sequence): boolean => this.#flag(sequence) === Flag.park;
    this.#scheduler?.reap(ended);
    this.#scheduler?.unpark((sequence) => !isParked(sequence));
    this.#range.reap((sequence) => (ended(sequence) ? 'done' : isParked(sequence) ? 'parked' : null));
  }

  #flag(sequence: Sequence): number {
    return Atomics.load(this.#flags, sequence.meta.flag);
  }

  #endIfDue(sequence: Sequence, now: number, isWaiting: boolean): boolean {
    const { id, deadline, queueDeadline } = sequence.meta;
    if (this.#flag(sequence) === Flag.cancel) {
      sequence.finish(this.#out);
      this.#out.end(id, 'cancelled');
    } else if (now > deadline) {
      this.#out.end(id, 'error', 'deadline_exceeded', 'the deadline of the request has passed');
    } else if (isWaiting && now > queueDeadline && sequence.numGenerated === 0) {
      this.#out.end(id, 'error', 'queue_timeout', 'no slot became free in time');
    } else return false;
    return true;
  }

  // --- 2. prompts, in the lead only

  /** Chunks that come before the next token of the own rows. */
  #prefillInTurn(scheduler: Scheduler): void {
    const started = performance.now();
    const patienceMs = this.#range.hasUrgent ? SHORT_CHUNK_MS : PATIENT_MS;
    let wasUrgent = scheduler.hasUrgentPrompt;
    let isComplete = this.#prefill(scheduler);
    // An urgent prompt does not wait for a chunk of others and for the own rows too, nor for them after a short one. The
    // rows wait longer from prompt to prompt, but not for all chunks of a long one.
    while (!wasUrgent || performance.now() - started < (isComplete ? patienceMs : SHORT_CHUNK_MS)) {
      if (this.#hasMail) this.#takeIn();
      if (!scheduler.hasUrgentPrompt) return;
      wasUrgent = true;
      isComplete = this.#prefill(scheduler);
    }
  }

  /** One chunk of a prompt. With its last one the first token leaves, and the sequence goes to a row; true then. */
  #prefill(scheduler: Scheduler): boolean {
    // Own streams that are about to leave do not wait for a chunk first, unless it is an urgent one.
    if (scheduler.balance() && !scheduler.hasUrgentPrompt) return false;
    if (scheduler.isPrefilling) this.#steps.flush();
    const { stats } = this.#out;
    const started = performance.now();
    stats.prefillTokens += scheduler.prefill(this.#model);
    stats.prefillMs += performance.now() - started;
    if (!scheduler.hasPrefilled) return false;
    // Before the sequence can be on its way to another worker, which would post its second token.
    this.#post();
    scheduler.placePrefilled();
    return true;
  }

  // --- 3. tokens, then copies

  /** One token for every row, or several for a single one. They leave before any copying. */
  #decode(): void {
    const { stats } = this.#out;
    const started = performance.now();
    // A run of guesses takes longer than a step, and a prompt would wait for it.
    const speculator = this.#scheduler?.isPrefilling === true ? null : this.#speculator;
    const postPart = (): void => this.#steps.post(this.#out.takePart(), Haste.now);
    stats.batchSize = this.#range.decode(this.#model, this.#out, speculator, postPart);
    stats.stepMs = performance.now() - started;
    if (stats.batchSize === 1 && speculator) this.#solo?.advanced(1 + stats.acceptedTokens);
    this.#post();
  }

  /** Copies between rows and homes, for a while. */
  #move(): void {
    const started = performance.now();
    const isAwaited = this.#range.isReleasing && this.#scheduler?.isPrefilling === true;
    const moved = this.#range.move(isAwaited ? RELEASE_BUDGET_MS : MOVE_BUDGET_MS);
    this.#out.stats.movedTokens += moved;
    this.#out.stats.moveMs += performance.now() - started;
    if (!this.#out.isEmpty) this.#post();
  }

  #onLeft(sequence: Sequence, kind: LeaveKind): void {
    // From here it may go on in another worker.
    this.#steps.flush();
    if (this.#scheduler) this.#scheduler.left(sequence, kind);
    else this.#lead!.send({ op: 'left', sequence: sequence.state(), kind });
  }

  // --- 4. messages out

  #post(): void {
    const { stats } = this.#out;
    if (this.#out.isEmpty && stats.batchSize === 0 && stats.prefillTokens === 0) return;
    const { haste } = this.#out;
    this.#steps.post(this.#out.take(), haste);
  }

  #postGauges(): void {
    const now = performance.now();
    if (now - this.#gaugesAtMs < GAUGE_INTERVAL_MS) return;
    this.#gaugesAtMs = now;
    const { gauges } = this;
    if (!gauges) return;
    const text = JSON.stringify(gauges);
    if (text === this.#postedGauges) return;
    this.#postedGauges = text;
    this.#send(gauges);
  }

  #send(message: FromWorker): void {
    this.#init.port.postMessage(message);
  }

  // --- besides

  // The lead may find other workers' cores idle, and they may find its own: each says whether it computes.
  #setBusy(isBusy: boolean): void {
    const { index, threads, layout } = this.#init;
    const taken = this.#solo?.isAlone(this.#range.size) === true ? threads * layout.numWorkers : threads;
    Atomics.store(this.#busy, index, isBusy ? taken : 0);
  }

  #createSpeculator(): Speculator | null {
    return this.#init.speculation && this.#model.verifySizes.length > 0 ? new Speculator(this.#model) : null;
  }
}
