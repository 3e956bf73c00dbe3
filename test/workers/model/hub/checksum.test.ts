import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { matches, startHash } from '../../../../workers/model/hub/checksum.ts';
import type { Checksum } from '../../../../workers/model/hub/listing.ts';

/** Three pieces. */
const content = Buffer.alloc(9 << 20, 'tokenwire');
let directory = '';
let file = '';
let expected: { bytes: number; checksum: Checksum };

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'tokenwire-checksum-'));
  file = join(directory, 'weights');
  writeFileSync(file, content);
  const hex = startHash('sha256', content.length).update(content).digest('hex');
  expected = { bytes: content.length, checksum: { kind: 'sha256', hex } };
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

describe('Hashing a file', () => {
  it('tells how far it is and whether the content is right', async () => {
    const told: number[] = [];
    expect(await matches(file, expected, { onBytes: (done) => told.push(done) })).toBe(true);
    expect(told.at(-1)).toBe(content.length);
    expect(told.length).toBeGreaterThan(2);
    expect(await matches(file, { ...expected, checksum: { kind: 'sha256', hex: 'other' } })).toBe(false);
    expect(await matches(`${file}-gone`, expected)).toBe(false);
  });

  it('can be stopped between two pieces', async () => {
    const stop = new AbortController();
    const told: number[] = [];
    const onBytes = (done: number): void => {
      told.push(done);
      stop.abort(new Error('stopped'));
    };
    await expect(matches(file, expected, { signal: stop.signal, onBytes })).rejects.toThrow('stopped');
    expect(told.length).toBe(1);
  });
});
