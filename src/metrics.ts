// All metrics of the process, each with its unit and the question it answers. Made once in main.ts and passed to where
// the events happen; gauges are read from the engines at scrape time. Names follow the habits of other servers
// (vLLM) with our prefix, so that known dashboards need only a rename.
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { FinishReason, LatencyClass } from '../protocol/messages.ts';
import type { StepStats } from '../workers/messages/events.ts';
import type { BatchStats } from './engine/embedder.ts';
import type { Engine } from './engine/types.ts';
import { privateMemory } from './machine.ts';
import type { Response } from './responses/response.ts';
import type { ResponseObserver } from './responses/registry.ts';
import type { ResumeResult } from './socket/connection.ts';

const FAST_SECONDS = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5];
const SLOW_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
const FINISH_REASONS: readonly FinishReason[] = [
  'stop',
  'length',
  'tool_calls',
  'content_filter',
  'cancelled',
  'error',
];
const BATCH_ROWS = [1, 2, 4, 8, 12, 16, 24, 32, 48, 64];

/** Read at scrape time. */
export interface GaugeSources {
  engines: readonly Engine[];
  /** Inputs for embeddings that are not computed yet. */
  embeddingInputs(): number;
  /** Open sockets by kind. */
  connections(): { http: number; websocket: number };
  /** Ended responses still readable. */
  retained(): { count: number; bytes: number };
  /** Responses that have not ended, and sessions that are open. */
  held(): { responses: number; sessions: number };
}

export type Metrics = ReturnType<typeof createMetrics>;

export function createMetrics() {
  const registry = new Registry();
  const registers = [registry];
  /** Metrics with a model's name and no other label. */
  const perModel: { remove(labels: { model: string }): void }[] = [];
  const noted = <M extends (typeof perModel)[number]>(metric: M, labelNames: string[]): M => {
    if (labelNames.length === 1 && labelNames[0] === 'model') perModel.push(metric);
    return metric;
  };
  const histogram = (name: string, help: string, labelNames: string[], buckets: number[]) =>
    noted(new Histogram({ name: `tokenwire_${name}`, help, labelNames, buckets, registers }), labelNames);
  const counter = (name: string, help: string, labelNames: string[] = []) =>
    noted(new Counter({ name: `tokenwire_${name}`, help, labelNames, registers }), labelNames);
  const gauge = (name: string, help: string, labelNames: string[] = []) =>
    noted(new Gauge({ name: `tokenwire_${name}`, help, labelNames, registers }), labelNames);

  const ttft = histogram('time_to_first_token_seconds', 'From create to the first token.', ['model'], SLOW_SECONDS);
  const itl = histogram('inter_token_latency_seconds', 'Between tokens of one response.', ['model'], FAST_SECONDS);
  const queue = histogram('queue_time_seconds', 'From create to the start of prefill.', ['model'], SLOW_SECONDS);
  const total = histogram('response_seconds', 'From create to the end.', ['model'], SLOW_SECONDS);
  const cancelLatency = histogram(
    'cancel_latency_seconds',
    'From cancel to the end of the response.',
    ['model'],
    FAST_SECONDS,
  );
  const tokenToWrite = histogram(
    'token_to_write_seconds',
    'From sampling a token to writing it into a socket.',
    ['class'],
    FAST_SECONDS,
  );
  const stepTime = histogram('step_seconds', 'One decode step of a worker.', ['model'], FAST_SECONDS);
  const prefillTime = histogram('prefill_chunk_seconds', 'One prefill chunk.', ['model'], FAST_SECONDS);
  const batchSize = histogram('batch_size', 'Rows of a decode step.', ['model'], BATCH_ROWS);
  const prefillTokens = counter('prefill_tokens_total', 'Prompt tokens computed.', ['model']);
  const promptTokens = counter('prompt_tokens_total', 'Prompt tokens of ended responses.', ['model']);
  const cachedTokens = counter('cached_tokens_total', 'Prompt tokens whose KV was reused.', ['model']);
  const generationTokens = counter('generation_tokens_total', 'Tokens sampled.', ['model']);
  const drafted = counter('drafted_tokens_total', 'Tokens guessed ahead.', ['model']);
  const accepted = counter('draft_accepted_tokens_total', 'Guessed tokens that the model confirmed.', ['model']);
  const kvMoves = counter('kv_moved_tokens_total', 'KV rows copied between slots, in tokens.', ['model']);
  const kvMoveSeconds = counter('kv_move_seconds_total', 'Time spent copying KV rows.', ['model']);
  const responses = counter('responses_total', 'Ended responses by reason.', ['model', 'reason']);
  const parkings = counter('responses_parked_total', 'Responses set aside because nobody read them.', ['model']);
  const parkedTime = histogram(
    'response_parked_seconds',
    'How long a response was set aside before it went on.',
    ['model'],
    SLOW_SECONDS,
  );
  const resumes = counter('resume_total', 'Resumes by what they came to.', ['result']);
  const httpRequests = counter('http_requests_total', 'HTTP requests answered, by status.', ['status']);
  const refusedConnections = counter('connections_refused_total', 'Connections beyond MAX_CONNECTIONS.');
  const endedConnections = counter('connections_ended_total', 'Sockets that the server closed, by reason.', ['reason']);
  const workerRestarts = counter('worker_restarts_total', 'Engine workers started again after a failure.', ['model']);

  const embeddingSeconds = histogram(
    'embedding_seconds',
    'From an embedding request to its answer.',
    ['model'],
    SLOW_SECONDS,
  );
  const embeddingBatch = histogram('embedding_batch_size', 'Inputs computed together.', [], BATCH_ROWS);
  const embeddingBatchSeconds = histogram('embedding_batch_seconds', 'Computing a batch of inputs.', [], SLOW_SECONDS);
  const embeddingTokens = counter('embedding_tokens_total', 'Tokens of inputs computed to embeddings.');

  const embeddingsWaiting = gauge('embedding_inputs_waiting', 'Inputs for embeddings that are not computed yet.');
  const running = gauge('requests_running', 'Requests being computed.', ['model']);
  const waiting = gauge('requests_waiting', 'Requests waiting for a slot.', ['model']);
  const residentSlots = gauge('resident_slots', 'Slots that keep a conversation warm.', ['model']);
  const kvUsed = gauge('kv_used_tokens', 'Tokens held in KV memory.', ['model']);
  const kvReserved = gauge('kv_reserved_bytes', 'Bytes of KV memory touched so far.', ['model']);
  const kvBytes = gauge('kv_bytes_per_token', 'Bytes of KV memory one token takes: float32 or a quarter.', ['model']);
  const hookMisses = gauge('hook_misses', 'Steps whose outputs were copied after all.', ['model']);
  const connections = gauge('connections', 'Open sockets.', ['kind']);
  const retainedResponses = gauge('retained_responses', 'Ended responses that can still be read.');
  const retainedBytes = gauge('retained_bytes', 'Memory of ended responses.');
  const liveResponses = gauge('responses_live', 'Responses that have not ended, parked ones too.');
  const openSessions = gauge('sessions', 'Sessions that are open.');
  const timers = gauge('timers', 'Timers of the main thread that keep it running.');
  const heap = gauge(
    'process_heap_used_bytes',
    'JavaScript objects of the main thread, dead ones not yet collected too.',
  );
  const external = gauge('process_external_bytes', 'Memory outside the heap that objects of the main thread hold.');
  const residentMemory = gauge('process_resident_memory_bytes', 'Resident memory of the process.');
  const ownMemory = gauge('process_private_memory_bytes', 'Resident memory without mapped files such as weights.');

  const observer: ResponseObserver = {
    onToken(response, gapMs) {
      generationTokens.inc({ model: response.model });
      if (gapMs === null) ttft.observe({ model: response.model }, response.timings.ttftMs / 1000);
      else itl.observe({ model: response.model }, Math.max(0, gapMs) / 1000);
    },
    onParked(response, afterMs) {
      if (afterMs === null) parkings.inc({ model: response.model });
      else parkedTime.observe({ model: response.model }, afterMs / 1000);
    },
    onEnded(response) {
      if (response.state.kind !== 'ended') return;
      const { end, sinceMs } = response.state;
      const labels = { model: response.model };
      responses.inc({ ...labels, reason: end.reason });
      promptTokens.inc(labels, end.usage.promptTokens);
      cachedTokens.inc(labels, end.usage.cachedTokens);
      queue.observe(labels, end.timings.queuedMs / 1000);
      total.observe(labels, end.timings.totalMs / 1000);
      if (response.cancelAtMs !== null)
        cancelLatency.observe(labels, Math.max(0, sinceMs - response.cancelAtMs) / 1000);
    },
  };

  function readGauges(sources: GaugeSources): void {
    for (const engine of sources.engines) {
      const labels = { model: engine.model.id };
      const { gauges } = engine;
      running.set(labels, gauges.running);
      waiting.set(labels, gauges.waiting);
      residentSlots.set(labels, gauges.residentSlots);
      kvUsed.set(labels, gauges.kvUsedTokens);
      kvReserved.set(labels, gauges.kvReservedBytes);
      kvBytes.set(labels, gauges.kvBytesPerToken);
      hookMisses.set(labels, gauges.hookMisses);
    }
    embeddingsWaiting.set(sources.embeddingInputs());
    const open = sources.connections();
    connections.set({ kind: 'http' }, open.http);
    connections.set({ kind: 'websocket' }, open.websocket);
    const { count, bytes } = sources.retained();
    retainedResponses.set(count);
    retainedBytes.set(bytes);
    const held = sources.held();
    liveResponses.set(held.responses);
    openSessions.set(held.sessions);
    timers.set(process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length);
    try {
      const usage = process.memoryUsage();
      heap.set(usage.heapUsed);
      external.set(usage.external);
      residentMemory.set(usage.rss);
      ownMemory.set(privateMemory());
    } catch {
      // Reading it takes a file descriptor; a scrape must work when they have run out.
    }
  }

  return {
    /** Bumped for each token and end of a response. */
    observer,
    contentType: registry.contentType,

    /** A frame or event was written whose newest token was sampled so long ago. */
    onDelay(latencyClass: LatencyClass, delayMs: number): void {
      tokenToWrite.observe({ class: latencyClass }, Math.max(0, delayMs) / 1000);
    },

    /** One message of an engine worker arrived. */
    onStep(model: string, stats: StepStats): void {
      const labels = { model };
      if (stats.batchSize > 0) {
        stepTime.observe(labels, stats.stepMs / 1000);
        batchSize.observe(labels, stats.batchSize);
      }
      if (stats.prefillTokens > 0) {
        prefillTime.observe(labels, stats.prefillMs / 1000);
        prefillTokens.inc(labels, stats.prefillTokens);
      }
      if (stats.draftedTokens > 0) {
        drafted.inc(labels, stats.draftedTokens);
        accepted.inc(labels, stats.acceptedTokens);
      }
      if (stats.movedTokens > 0) {
        kvMoves.inc(labels, stats.movedTokens);
        kvMoveSeconds.inc(labels, stats.moveMs / 1000);
      }
    },

    /** A request for embeddings was answered. */
    onEmbeddings(model: string, totalMs: number): void {
      embeddingSeconds.observe({ model }, totalMs / 1000);
    },

    /** A batch of inputs was computed. */
    onEmbeddingBatch({ inputs, tokens, computeMs }: BatchStats): void {
      embeddingBatch.observe(inputs);
      embeddingBatchSeconds.observe(computeMs / 1000);
      embeddingTokens.inc(tokens);
    },

    /** A model was unloaded: what was counted of it goes with it. */
    forgetModel(model: string): void {
      for (const metric of perModel) metric.remove({ model });
      for (const reason of FINISH_REASONS) responses.remove({ model, reason });
    },

    onResumed: (result: ResumeResult): void => resumes.inc({ result }),
    onWorkerRestart: (model: string): void => workerRestarts.inc({ model }),
    onHttpAnswer: (status: number): void => httpRequests.inc({ status: String(status) }),
    onConnectionRefused: (): void => refusedConnections.inc(),
    onConnectionEnded: (reason: string): void => endedConnections.inc({ reason }),

    /** The text of `/metrics`. */
    async render(sources: GaugeSources): Promise<string> {
      readGauges(sources);
      return registry.metrics();
    },
  };
}

/** What an HTTP writer calls after each write of new tokens. */
export function observeWrite(metrics: Pick<Metrics, 'onDelay'>, response: Response): void {
  if (response.lastTokenAtMs === null) return;
  metrics.onDelay(response.class, performance.timeOrigin + performance.now() - response.lastTokenAtMs);
}
