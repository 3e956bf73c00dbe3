// Ending a thread inside ONNX Runtime aborts the process; with real weights a wrong order of the end shows as SIGABRT.
import { it } from 'vitest';
import { drainUnderLoad } from './support/drain.ts';

it('SIGTERM under load on real weights tells every client and exits 0, three times', { timeout: 600_000 }, async () => {
  for (let trial = 0; trial < 3; trial++) {
    const ms = await drainUnderLoad({ DRAIN_TIMEOUT: '0.5' });
    console.log(`exit after SIGTERM: ${Math.round(ms)} ms (500 ms of them drain)`);
  }
});
