// A thread that checks grammars, seen from the main thread: one check at a time, how long it has computed, and its end,
// which may come at any moment. Used by grammar-checker.ts, which knows what is to be checked and for how long.
import { readFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import type {
  GrammarBase,
  GrammarCheck,
  GrammarCheckAnswer,
  GrammarCheckData,
  GrammarVerdict,
} from '../../workers/messages/grammar.ts';

const HEAP_MB = 512;

export interface GrammarThreadEvents {
  /** It can take a check: after its start, and again when a check cost it its instance of the library. */
  ready(thread: GrammarThread): void;
  verdict(thread: GrammarThread, verdict: GrammarVerdict): void;
  /** It ended by itself: of what it was doing, or because it could not start. */
  lost(thread: GrammarThread): void;
}

export class GrammarThread {
  readonly #worker: Worker;
  #isReady = false;
  #task = '';
  #base: GrammarBase | null;

  constructor(data: GrammarCheckData, events: GrammarThreadEvents) {
    this.#base = data.base;
    this.#worker = new Worker(new URL('../../workers/grammar/check-entry.ts', import.meta.url), {
      workerData: data,
      resourceLimits: { maxOldGenerationSizeMb: HEAP_MB },
    });
    this.#worker.unref();
    this.#worker.on('message', (message: GrammarCheckAnswer) => {
      if ('ready' in message) {
        this.#isReady = true;
        this.#task = message.ready.task;
        this.#base = message.ready.base;
        events.ready(this);
        return;
      }
      if ('code' in message && message.isLost) this.#isReady = false;
      events.verdict(this, message);
    });
    this.#worker.on('error', () => events.lost(this));
    this.#worker.on('exit', () => events.lost(this));
  }

  get isReady(): boolean {
    return this.#isReady;
  }

  /** What another thread can be started with more quickly; null before this one was ready. */
  get base(): GrammarBase | null {
    return this.#base;
  }

  check(check: GrammarCheck): void {
    this.#worker.postMessage(check);
  }

  /**
   * Computing time so far, in milliseconds; NaN where the system does not tell. Asked from outside, since the thread answers
   * nothing while it computes.
   */
  usedMs(): number {
    try {
      return Number(readFileSync(`/proc/self/task/${this.#task}/schedstat`, 'utf8').split(' ')[0]) / 1e6;
    } catch {
      return NaN;
    }
  }

  /** At once: nothing else tells it to stop. */
  end(): void {
    void this.#worker.terminate();
  }
}
