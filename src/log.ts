// The log: JSON lines on stderr by default (pino), short readable lines when stderr is a terminal. Ordinary events are
// one line without a stack; a stack is logged only for what is our own bug.
import { pino, type Logger } from 'pino';
import type { LogLevel } from './settings.ts';

export type Log = Logger;

interface Line {
  level: number;
  time: number;
  msg?: string;
  err?: { message?: string; stack?: string };
  [field: string]: unknown;
}

/** A progress bar may stand in this line. */
const CLEAR_LINE = '\r\u001B[K';

const HIDDEN = new Set(['level', 'time', 'msg', 'err', 'pid', 'hostname']);

/** What a terminal would obey instead of showing it: C0 and C1 controls, DEL. A stack keeps its line ends. */
const CONTROLS = /\p{Cc}/gu;
const CONTROLS_BUT_LINE_ENDS = /[^\P{Cc}\n]/gu;
const VISIBLE = '\uFFFD';

/** One log entry for people: time, a mark for trouble, the message, then the other fields. */
export function formatLine(json: string): string {
  const line = JSON.parse(json) as Line;
  const time = new Date(line.time).toTimeString().slice(0, 8);
  const mark = line.level >= 50 ? 'error ' : line.level >= 40 ? 'warning ' : '';
  const fields = Object.entries(line)
    .filter(([name]) => !HIDDEN.has(name))
    .map(([name, value]) => ` ${name}=${typeof value === 'string' ? value : JSON.stringify(value)}`)
    .join('');
  // Clients choose some of these words, so none of them may move the cursor or begin a line.
  const stack = line.err ? `\n${line.err.stack ?? line.err.message}`.replace(CONTROLS_BUT_LINE_ENDS, VISIBLE) : '';
  return `${time} ${mark}${`${line.msg ?? ''}${fields}`.replace(CONTROLS, VISIBLE)}${stack}\n`;
}

/** Writes synchronously, so that the last line before an end by signal is not lost. */
export function createLog(level: LogLevel): Log {
  if (!process.stderr.isTTY) return pino({ level, base: null }, pino.destination({ fd: 2, sync: true }));
  return pino(
    { level, base: null },
    { write: (json: string) => void process.stderr.write(`${CLEAR_LINE}${formatLine(json)}`) },
  );
}
