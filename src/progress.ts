// Tells the person at the terminal how far the models are: a bar that redraws itself, or in a log one line per phase.
import type { CompileProgress } from '../workers/messages/models.ts';
import type { EngineSet } from './engine/models.ts';
import type { Log } from './log.ts';

const POLL_MS = 150;
const BAR_CELLS = 24;

/** One line of the bar, shorter than the terminal is wide: `minimind: downloading ██████░░░░ 60 % (1.2 GB of 2 GB)`. */
export function drawBar(model: string, { phase, done, bytes }: CompileProgress, columns = Infinity): string {
  const share = Math.min(1, Math.max(0, done));
  const amount = bytes ? ` (${formatSize(bytes.done)} of ${formatSize(bytes.total)})` : '';
  const before = `${model}: ${phase} `;
  const after = ` ${Math.floor(share * 100)} %${amount}`;
  const width = Math.max(0, Math.min(BAR_CELLS, columns - 1 - before.length - after.length));
  const cells = Math.round(share * width);
  // A line that wraps could not be drawn over.
  return `${before}${'█'.repeat(cells)}${'░'.repeat(width - cells)}${after}`.slice(0, Math.max(0, columns - 1));
}

/** Bytes for people, as hubs count them: 1,500,000 is 1.5 MB. */
export function formatSize(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = 0;
  for (; value >= 999.5 && unit < units.length - 1; unit++) value /= 1000;
  return `${unit === 0 || value >= 100 ? Math.round(value) : Number(value.toPrecision(3))} ${units[unit]}`;
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
      out.write(`\r\u001B[K${drawBar(current.model, current, out.columns)}`);
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
