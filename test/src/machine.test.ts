import { describe, expect, it } from 'vitest';
import { parseAnonymousMemory, privateMemory } from '../../src/machine.ts';

const MIB = 2 ** 20;

describe('Private memory', () => {
  it('is read from what the system says of the process', () => {
    expect(parseAnonymousMemory('VmRSS:\t  500 kB\nRssAnon:\t  200 kB\nRssFile:\t  300 kB\n')).toBe(200 * 1024);
    expect(parseAnonymousMemory('VmRSS:\t  500 kB\n')).toBeNull();
  });

  it('grows by what is written to, and is never more than what is resident', () => {
    const before = privateMemory();
    const block = Buffer.alloc(64 * MIB, 1);
    expect(privateMemory() - before).toBeGreaterThan(32 * MIB);
    expect(privateMemory()).toBeLessThanOrEqual(process.memoryUsage.rss() + MIB);
    expect(block.length).toBe(64 * MIB);
  });
});
