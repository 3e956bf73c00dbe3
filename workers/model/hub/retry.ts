// Bounded tries with growing pauses, for everything asked of the hub. An error that trying again cannot mend (404, a
// wrong token, a full disk) passes at once.
import { setTimeout as sleep } from 'node:timers/promises';

export interface Patience {
  /** Tries in a row that bring nothing; one that moved forward begins the count again. */
  attempts: number;
  /** The pause doubles from the first to the longest; up to half of it is added by chance. */
  firstDelayMs: number;
  maxDelayMs: number;
  /** A connection that brings no byte for so long counts as cut. */
  stallMs: number;
}

export const defaultPatience: Patience = { attempts: 6, firstDelayMs: 500, maxDelayMs: 30_000, stallMs: 30_000 };

/** The longest pause a server may ask for. */
const MAX_RETRY_AFTER_MS = 300_000;

/** What went wrong at the hub. The message is for people and never holds the token. */
export class HubError extends Error {
  override readonly name = 'HubError';
  readonly isTransient: boolean;
  /** What the server asked for; null: it did not. */
  readonly retryAfterMs: number | null;

  constructor(message: string, options: { isTransient?: boolean; retryAfterMs?: number | null; cause?: unknown } = {}) {
    super(message, 'cause' in options ? { cause: options.cause } : {});
    this.isTransient = options.isTransient ?? false;
    this.retryAfterMs = options.retryAfterMs ?? null;
  }
}

/**
 * Runs `work` until it succeeds, fails for good, or failed `attempts` times in a row. `work` calls `moved` when it got
 * further than before. Rejects with the signal's reason once it is aborted.
 */
export async function retrying<T>(
  patience: Patience,
  signal: AbortSignal | undefined,
  work: (moved: () => void) => Promise<T>,
): Promise<T> {
  let failures = 0;
  for (;;) {
    signal?.throwIfAborted();
    let hasMoved = false;
    try {
      return await work(() => (hasMoved = true));
    } catch (error) {
      signal?.throwIfAborted();
      if (!(error instanceof HubError) || !error.isTransient) throw error;
      failures = hasMoved ? 1 : failures + 1;
      if (failures >= patience.attempts) {
        throw new HubError(`${error.message} (gave up after ${failures} tries)`, { cause: error });
      }
      await pause(patience, failures, error.retryAfterMs, signal);
    }
  }
}

async function pause(
  { firstDelayMs, maxDelayMs }: Patience,
  failures: number,
  retryAfterMs: number | null,
  signal: AbortSignal | undefined,
): Promise<void> {
  const grown = Math.min(maxDelayMs, firstDelayMs * 2 ** (failures - 1));
  const least = Math.min(retryAfterMs ?? 0, MAX_RETRY_AFTER_MS);
  const ms = Math.max(least, grown * (1 + Math.random() / 2));
  await sleep(ms, undefined, signal ? { signal } : {}).catch((error: unknown) => {
    signal?.throwIfAborted();
    throw error;
  });
}

/** Milliseconds out of a Retry-After header: seconds or a date; null when it is absent or says nothing. */
export function parseRetryAfter(header: string | null, nowMs = Date.now()): number | null {
  if (header === null) return null;
  if (/^\d+$/.test(header.trim())) return Number(header) * 1000;
  const date = Date.parse(header);
  return Number.isNaN(date) ? null : Math.max(0, date - nowMs);
}
