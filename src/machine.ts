// What this machine allows us: cores, memory and file descriptors. Read once, for the defaults of config.ts. And how much
// memory of our own we take of it.
import { readFileSync } from 'node:fs';
import { availableParallelism, totalmem } from 'node:os';

export interface Machine {
  /** Cores this process may use. */
  cores: number;
  /** Bytes of memory this process may use: the container's limit where there is one. */
  memoryBytes: number;
  /** Soft limit of open file descriptors. */
  fileDescriptors: number;
}

/** Taken where the system states no limit, so that a table of that size stays affordable. */
const UNLIMITED_DESCRIPTORS = 65_536;

/** Soft limit out of the text of /proc/self/limits; null when the line is missing. */
export function parseOpenFilesLimit(text: string): number | null {
  const match = /^Max open files\s+(\S+)/m.exec(text);
  if (!match) return null;
  return match[1] === 'unlimited' ? UNLIMITED_DESCRIPTORS : Number(match[1]);
}

function openFilesLimit(): number {
  try {
    const limit = parseOpenFilesLimit(readFileSync('/proc/self/limits', 'utf8'));
    if (limit !== null) return limit;
  } catch {
    // Not Linux: Node's own report knows the limit everywhere else, at the price of some milliseconds.
  }
  const report = process.report.getReport() as { userLimits?: { open_files?: { soft?: number | string } } };
  const soft = Number(report.userLimits?.open_files?.soft);
  return Number.isFinite(soft) && soft > 0 ? soft : UNLIMITED_DESCRIPTORS;
}

export function readMachine(): Machine {
  const total = totalmem();
  // 0 when unknown, and a number near 2^64 when the container has no limit.
  const constrained = process.constrainedMemory();
  return {
    cores: availableParallelism(),
    memoryBytes: constrained > 0 && constrained < total ? constrained : total,
    fileDescriptors: openFilesLimit(),
  };
}

/** Bytes without a file behind them out of the text of /proc/self/status; null when the line is missing. */
export function parseAnonymousMemory(text: string): number | null {
  const match = /^RssAnon:\s+(\d+) kB/m.exec(text);
  return match ? Number(match[1]) * 1024 : null;
}

/**
 * Bytes of memory that only this process has. Weights are mapped by each session that runs them, and the system counts
 * their pages as resident once for each, though there is one copy: where it can be told, they are left out.
 */
export function privateMemory(): number {
  try {
    const bytes = parseAnonymousMemory(readFileSync('/proc/self/status', 'utf8'));
    if (bytes !== null) return bytes;
  } catch {
    // Not Linux.
  }
  return process.memoryUsage.rss();
}
