// Memory that the main thread and all workers of a model share, and who writes what there.

/** Memory shared by the main thread and all workers of one model. */
export interface EngineShared {
  /** Per layer one buffer for K and one for V, [slots, kvHeads, maxLen, headDim] of the shape's kvType, alternating. */
  kv: SharedArrayBuffer[];
  /** Int32 per request: a Flag. */
  flags: SharedArrayBuffer;
  /** Int32 per slot: id of the worker that may write it (asserted when `debugOwners`). */
  owners: SharedArrayBuffer;
  /** Int32 per slot: tokens ever written there (pages are never given back); one more entry with their sum. */
  marks: SharedArrayBuffer;
  /** Int32 per slot: tokens of the answer of the sequence whose home it is, for the lead to share out what comes next. */
  generated: SharedArrayBuffer;
  /** Int32 by `Order`: how far step messages are. */
  order: SharedArrayBuffer;
  /** Int32 per worker: threads it computes with at the moment, 0 when it has nothing to do. */
  busy: SharedArrayBuffer;
  /** One Int32: streams up to which all are best left to the solo worker (solo-model.ts), 0 for never. */
  soloRows: SharedArrayBuffer;
  /** One Int32 for the whole process: held while a session is created, since its settings pass through the environment. */
  loadLock?: SharedArrayBuffer;
  /** Absent: `SlotLayout.budgetTokens` is this model's own. */
  kvLease?: KvLeaseShared;
}

/** Layout of the slots: decode range of each worker, then the resident slots. */
export interface SlotLayout {
  /** Rows of each worker's decode range; worker w owns [w·rowsPerWorker, (w+1)·rowsPerWorker). */
  rowsPerWorker: number;
  numWorkers: number;
  numSlots: number;
  maxLen: number;
  /** The sum over slots of tokens ever written stays below this; how far below is up to `EngineShared.kvLease`. */
  budgetTokens: number;
}

/** A model's part of the KV memory that all models share. */
export interface KvLeaseShared {
  /** Int32 by `Lease`. */
  lease: SharedArrayBuffer;
  /** BigInt64 by `Pot`; the same for all models. */
  pot: SharedArrayBuffer;
}

/** Indices in `KvLeaseShared.lease`. */
export const Lease = {
  /** Tokens the model may hold; its workers raise it. */
  granted: 0,
  /** Tokens up to which they may; the main thread's. */
  cap: 1,
  size: 2,
} as const;

/** Indices in `KvLeaseShared.pot`. */
export const Pot = {
  /** Bytes that no model has. */
  freeBytes: 0,
  /** Counts the times that a model wanted more and did not get it. */
  refusals: 1,
  size: 2,
} as const;

/** Int32 indices in `EngineShared.order`. */
export const Order = {
  /** Number of the next step message; workers take it. */
  next: 0,
  /** All messages below were delivered; the main thread writes it and notifies. */
  delivered: 1,
  size: 2,
} as const;

/** Int32 indices in a worker's control buffer. */
export const Ctl = {
  /** Counts messages for this worker; Atomics.notify'd. */
  mail: 0,
  stop: 1,
  /** 1 while a step runs. */
  busy: 2,
  /** Steps begun. */
  beats: 3,
  size: 16,
} as const;

/** Index of the worker that few streams are left to; it must not be the lead, which prefills. */
export const SOLO_WORKER = 1;
