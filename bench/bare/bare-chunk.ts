// Times the product's own prefill of some tokens behind a past, in this thread and without any server: what a chunk
// costs, whoever computes it. Called by the benches `chunks` and, while its server is idle, `turns`.
import { allocateShared } from '../../src/engine/memory.ts';
import type { KvType } from '../../workers/messages/models.ts';
import type { SlotLayout } from '../../workers/messages/shared.ts';
import { compileModel } from '../../workers/model/compile.ts';
import type { Model } from '../../workers/model/model.ts';
import { openModel } from '../../workers/model/open-model.ts';

export interface BareChunkOptions {
  model: string;
  cacheDir: string;
  maxContext: number;
  kv?: KvType;
  threads?: number;
  /** decode: prefill as if the model had no graph of its own for it. */
  graph?: 'prefill' | 'decode';
}

export class BareChunk {
  readonly #model: Model;

  private constructor(model: Model) {
    this.#model = model;
  }

  static async open(options: BareChunkOptions): Promise<BareChunk> {
    const { kv = 'float32', threads = 1, graph = 'prefill', ...rest } = options;
    const compiled = await compileModel({ ...rest, kv: { type: kv, memoryBytes: 0 } });
    const maxLen = compiled.shape.maxPositions;
    const layout: SlotLayout = { rowsPerWorker: 0, numWorkers: 1, numSlots: 1, maxLen, budgetTokens: maxLen };
    const shared = allocateShared(compiled.shape, layout, 1);
    const chosen = graph === 'prefill' ? compiled : { ...compiled, prefillPath: compiled.decodePath };
    return new BareChunk(await openModel(chosen, shared, layout, { threads, role: 'prefill' }));
  }

  /** Milliseconds, the best of a few. What stands in the past does not matter to the time. */
  time(numTokens: number, past: number, repeats = 3): number {
    const ids = new Int32Array(numTokens).fill(1);
    let best = Infinity;
    for (let run = 0; run < repeats; run++) {
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
