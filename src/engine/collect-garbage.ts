// Frees KV memory whose threads have ended. Shared buffers are outside of V8's accounts: the main thread, which made them,
// may hold gigabytes by a few small objects and see no reason to collect them for hours. Used by idle.ts.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** The collector as V8 offers it on demand. */
type Collect = (options: { type: 'major'; execution: 'sync' }) => void;

let collect: Collect | null = null;

/** Takes some 20 ms in which nothing else happens on this thread. */
export function collectGarbage(): void {
  if (collect === null) {
    setFlagsFromString('--expose-gc');
    collect = runInNewContext('gc') as Collect;
    setFlagsFromString('--no-expose-gc');
  }
  collect({ type: 'major', execution: 'sync' });
}
