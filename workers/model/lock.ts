// A lock file that names its owner's process, so that a crash never locks a cache for good.
// compile holds one per cache entry: a second process waits and then finds the entry made.
import { randomUUID } from 'node:crypto';
import fs from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

const POLL_MS = 100;

/**
 * Runs `work` while holding the lock `file`. Waits for a living owner, other callers in this process included;
 * breaks a lock whose process is gone. `onWait` is called once per poll.
 */
export async function withLock<T>(file: string, onWait: () => void, work: () => Promise<T>): Promise<T> {
  const token = `${process.pid} ${startOf(process.pid)} ${randomUUID()}`;
  while (!tryLock(file, token)) {
    if (!breakStale(file)) {
      onWait();
      await sleep(POLL_MS);
    }
  }
  try {
    return await work();
  } finally {
    if (readOwner(file) === token) fs.rmSync(file, { force: true });
  }
}

export function isAlive(pid: number): boolean {
  // Zero and negative numbers would address whole groups of processes.
  if (!Number.isInteger(pid) || pid < 1) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // Not ours to signal, but there.
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** When a process started, in clock ticks since boot; '' where the system does not tell. */
function startOf(pid: number): string {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The second field is the program's name in parentheses and may contain spaces.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '';
  } catch {
    return '';
  }
}

/** The file appears with its contents or not at all: a reader never sees a lock without an owner. */
function tryLock(file: string, token: string): boolean {
  const draft = `${file}.${token.replaceAll(' ', '-')}`;
  fs.writeFileSync(draft, token);
  try {
    fs.linkSync(draft, file);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  } finally {
    fs.rmSync(draft, { force: true });
  }
}

/** Returns true when the lock is gone now. Renaming first means only one of several breakers removes it. */
function breakStale(file: string): boolean {
  const owner = readOwner(file);
  if (owner === null) return true;
  const [pid, start] = owner.split(' ');
  // A restarted container reuses process ids: the same id with another start time is another process.
  if (isAlive(Number(pid)) && start === startOf(Number(pid))) return false;
  const broken = `${file}.broken-${randomUUID()}`;
  try {
    fs.renameSync(file, broken);
  } catch {
    return true;
  }
  const taken = readOwner(broken);
  // Between reading and renaming, someone else may have broken it and locked anew: give that lock back.
  if (taken !== owner && taken !== null) {
    try {
      fs.linkSync(broken, file);
    } catch {
      // A third process holds the lock by now. Both then build the same entry, each in a folder of its own.
    }
  }
  fs.rmSync(broken, { force: true });
  return true;
}

function readOwner(file: string): string | null {
  try {
    return fs.readFileSync(file, 'utf8');
  } catch {
    return null;
  }
}
