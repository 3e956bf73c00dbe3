// What something costs this thread: a machine that does other things besides makes it take longer, not cost more.

/** Milliseconds of CPU time of this thread that `act` takes. */
export function cpuMs(act: () => void): number {
  const before = process.threadCpuUsage();
  act();
  const { user, system } = process.threadCpuUsage(before);
  return (user + system) / 1000;
}
