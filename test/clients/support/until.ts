// Waits for a condition instead of for a time.
import { setTimeout as sleep } from 'node:timers/promises';

/** Fulfils when the condition holds; rejects after `limitMs`. */
export async function until(condition: () => boolean, limitMs = 60_000): Promise<void> {
  const endMs = performance.now() + limitMs;
  while (!condition()) {
    if (performance.now() > endMs) throw new Error(`not within ${limitMs} ms: ${condition.toString()}`);
    await sleep(2);
  }
}
