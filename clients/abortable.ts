// One way to let an AbortSignal end the waiting for a promise. What was asked for may still happen on the server: the
// signal ends the waiting, not the request. Used by every call of client.ts and session.ts that takes a signal.

/** How long to wait for an answer. */
export interface WaitOptions {
  /** Aborting rejects with the signal's reason; what has not been sent yet never is. */
  signal?: AbortSignal;
}

/** The promise itself without a signal. Rejects with the signal's reason as soon as that aborts. */
export function abortable<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(signal.reason as Error);
    if (signal.aborted) abort();
    else signal.addEventListener('abort', abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
