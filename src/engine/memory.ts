// How a model's KV memory is laid out: decided here, once, before its workers start. What it may take of the budget of all
// models is kv-pot.ts's business.
import { ServiceError } from '../../protocol/errors.ts';
import { kvBytesPerToken } from '../../workers/messages/models.ts';
import { Order } from '../../workers/messages/shared.ts';
import type { ModelShape } from '../../workers/messages/models.ts';
import type { EngineShared, KvLeaseShared, SlotLayout } from '../../workers/messages/shared.ts';

export interface MemoryOptions {
  workers: number;
  slots: number;
  /** Null: what the model was compiled for. */
  maxContext: number | null;
  /** Of all models. */
  kvMemoryBytes: number;
}

/** Contexts are advised in multiples of this many tokens. */
const CONTEXT_STEP = 64;
/** Homes beyond one for each row, a part of the rows: for who comes in while somebody leaves a row, whose KV stays. */
const SPARE_HOMES = 1 / 4;

/**
 * Half of the slots are rows of decode ranges, half are homes where prompts are prefilled and conversations stay; a few
 * more homes come on top.
 * Throws `invalid_request` naming the MAX_CONTEXT that fits when row and home of one full sequence exceed the budget.
 */
export function planLayout(shape: ModelShape, options: MemoryOptions): SlotLayout {
  const { workers, slots, kvMemoryBytes } = options;
  const maxLen = Math.min(options.maxContext ?? Infinity, shape.maxPositions);
  const bytes = kvBytesPerToken(shape);
  const budgetTokens = Math.floor(kvMemoryBytes / bytes);
  if (budgetTokens < 2 * maxLen) {
    const fits = Math.floor(budgetTokens / 2 / CONTEXT_STEP) * CONTEXT_STEP;
    const need = formatBytes(2 * maxLen * bytes);
    throw new ServiceError(
      'invalid_request',
      `a context of ${maxLen} tokens needs ${need} of KV memory, but KV_MEMORY is ${formatBytes(kvMemoryBytes)}: ` +
        [
          ...(fits > 0 ? [`set MAX_CONTEXT=${fits} or less`] : []),
          ...(shape.kvType === 'float32' ? ['set KV_TYPE=int8'] : []),
          'raise KV_MEMORY',
        ].join(', or '),
    );
  }
  const rowsPerWorker = Math.max(1, Math.floor(slots / (2 * workers)));
  const numRows = rowsPerWorker * workers;
  const numSlots = Math.max(slots, 2 * numRows) + Math.floor(numRows * SPARE_HOMES);
  return { rowsPerWorker, numWorkers: workers, numSlots, maxLen, budgetTokens };
}

const loadLock = new SharedArrayBuffer(4);

/** Reserves address space for all slots; no page is touched before a token is written to it. */
export function allocateShared(
  shape: ModelShape,
  layout: SlotLayout,
  numFlags: number,
  kvLease?: KvLeaseShared,
): EngineShared {
  const numBuffers = 2 * shape.numLayers;
  const bufferBytes = (layout.numSlots * layout.maxLen * kvBytesPerToken(shape)) / numBuffers;
  return {
    kv: Array.from({ length: numBuffers }, () => new SharedArrayBuffer(bufferBytes)),
    flags: new SharedArrayBuffer(4 * numFlags),
    owners: new SharedArrayBuffer(4 * layout.numSlots),
    marks: new SharedArrayBuffer(4 * (layout.numSlots + 1)),
    generated: new SharedArrayBuffer(4 * layout.numSlots),
    order: new SharedArrayBuffer(4 * Order.size),
    soloRows: new SharedArrayBuffer(4),
    busy: new SharedArrayBuffer(4 * layout.numWorkers),
    loadLock,
    ...(kvLease === undefined ? {} : { kvLease }),
  };
}

export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const power = bytes < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10));
  const value = bytes / 1024 ** power;
  return `${Number.isInteger(value) ? value : value.toFixed(1)} ${units[power]}`;
}
