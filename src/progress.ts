// Tells the person at the terminal how far the models are: a bar that redraws itself, or in a log one line per phase.
import type { EngineSet } from './engine/pool.ts';
import type { Log } from './log.ts';

const POLL_MS = 150;
const BAR_CELLS = 24;

/** One line of the bar: `minimind: compiling ██████░░░░ 60 %`. */
export function drawBar(model: string, phase: string, done: number): string {
  const share = Math.min(1, Math.max(0, done));
  const cells = Math.round(share * BAR_CELLS);
  return `${model}: ${phase} ${'█'.repeat(cells)}${'░'.repeat(BAR_CELLS - cells)} ${Math.floor(share * 100)} %`;
}

/** Shows loading until the returned function is called. */
export function showProgress(engines: Pick<EngineSet, 'progress'>, log: Log, out = process.stderr): () => void {
  let lastPhase = '';
  let isDrawn = false;
  const clear = (): void => {
    if (isDrawn) out.write('\r\u001B[K');
    isDrawn = false;
  };
  const timer = setInterval(() => {
    const current = engines.progress[0];
    if (!current) return;
    if (out.isTTY) {
      out.write(`\r\u001B[K${drawBar(current.model, current.phase, current.done)}`);
      isDrawn = true;
    } else if (current.phase !== lastPhase) {
      log.info({ model: current.model, done: Number(current.done.toFixed(2)) }, `loading: ${current.phase}`);
    }
    lastPhase = current.phase;
  }, POLL_MS);
  timer.unref();
  return () => {
    clearInterval(timer);
    clear();
  };
}
