// What the compiler asks of the processor: its flags, which name a cache entry and choose the products of decode steps.
import fs from 'node:fs';
import os from 'node:os';

/** As the kernel lists them; the processor's name on a system without /proc. */
export function cpuFlags(): string {
  const name = os.cpus()[0]?.model ?? '';
  try {
    return /^(flags|Features)\s*:(.*)$/m.exec(fs.readFileSync('/proc/cpuinfo', 'utf8'))?.[2]?.trim() ?? name;
  } catch {
    return name;
  }
}

/** True where ONNX Runtime multiplies 8-bit rows in tiles (AMX): from a few rows on that is far faster than blocks. */
export function hasTiles(flags = cpuFlags()): boolean {
  return flags.split(' ').includes('amx_int8');
}
