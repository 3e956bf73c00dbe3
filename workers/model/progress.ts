// How work that takes seconds or minutes tells how far it is, and learns that nobody wants it any more. Used by compile and
// compile-encoder, and by what they call.
import type { CompileProgress } from '../messages/models.ts';

export interface Watch {
  /** Stops the work: it rejects with the signal's reason, and leaves nothing half done behind. */
  signal?: AbortSignal;
  /** May abort `signal`; it is looked at after each report. */
  onProgress?(progress: CompileProgress): void;
}

/** Says how far the work is. Throws where it is to stop, so call it often: ten times a second is good. */
export type Progress = (phase: string, done: number) => void;

export function progressOf({ signal, onProgress }: Watch): Progress {
  return (phase, done) => {
    onProgress?.({ phase, done });
    signal?.throwIfAborted();
  };
}
