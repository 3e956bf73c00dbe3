// Times the product's own prefill of some tokens behind a past, in this thread and without any server: what attention
// over the past costs, whoever computes it. Called by the bench `turns`, while its server is idle.
import { allocateShared } from '../../src/engine/memory.ts';
import type { SlotLayout } from '../../workers/messages.ts';
import { compileModel } from '../../workers/model/compile.ts';
import type { Model } from '../../workers/model/model.ts';
import { openModel } from '../../workers/model/open-model.ts';

const REPEATS = 3;

export class BareChunk {
  readonly #model: Model;

  private constructor(model: Model) {
    this.#model = model;
  }

  static async open(model: string, cacheDir: string, maxContext: number): Promise<BareChunk> {
    const compiled = await compileModel({ model, cacheDir, maxContext });
    const maxLen = compiled.shape.maxPositions;
    const layout: SlotLayout = { rowsPerWorker: 0, numWorkers: 1, numSlots: 1, maxLen, budgetTokens: maxLen };
    const shared = allocateShared(compiled.shape, layout, 1);
    return new BareChunk(await openModel(compiled, shared, layout, { threads: 1, role: 'prefill' }));
  }

  /** Milliseconds, the best of a few. What stands in the past does not matter to the time. */
  time(numTokens: number, past: number): number {
    const ids = new Int32Array(numTokens).fill(1);
    let best = Infinity;
    for (let run = 0; run < REPEATS; run++) {
      const startedMs = performance.now();
      this.#model.prefill(0, ids, past, true);
      best = Math.min(best, performance.now() - startedMs);
    }
    return best;
  }

  close(): void {
    this.#model.dispose();
  }
}
