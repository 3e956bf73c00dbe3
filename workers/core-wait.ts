// How long this thread waited for a core while it had work: what tells that others compute on this machine, at the price
// of reading one small file. Where the system does not count that (other than Linux), nobody ever seems to wait.
import { readFileSync } from 'node:fs';

/** To be called in the thread it is about: of the time since the last call with work, the share without a core. */
export function coreWait(): () => number {
  let [ranNs, waitedNs] = [0, 0];
  return () => {
    const before = { ranNs, waitedNs };
    [ranNs, waitedNs] = read();
    const waited = waitedNs - before.waitedNs;
    const ran = ranNs - before.ranNs;
    return ran + waited > 0 ? waited / (ran + waited) : 0;
  };
}

/** Nanoseconds on a core and ready without one, of the calling thread since it began. */
function read(): [number, number] {
  try {
    const [ran = 0, waited = 0] = readFileSync('/proc/thread-self/schedstat', 'utf8').split(' ').map(Number);
    return [ran, waited];
  } catch {
    return [0, 0];
  }
}
