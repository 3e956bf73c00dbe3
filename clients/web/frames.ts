// Collects DOM writes into one pass per animation frame, however many deltas arrive in between.

const scheduled = new Set<() => void>();
let request = 0;

function run(): void {
  request = 0;
  const due = [...scheduled];
  scheduled.clear();
  for (const write of due) write();
}

/** Calls `write` once in the next frame. The same function asked for again before that runs only once. */
export function inNextFrame(write: () => void): void {
  scheduled.add(write);
  if (request === 0) request = requestAnimationFrame(run);
}
