import { describe, expect, it } from 'vitest';
import { formatLine } from '../../src/log.ts';
import { drawBar, formatSize } from '../../src/progress.ts';

const line = (fields: object) => formatLine(JSON.stringify({ level: 30, time: 0, msg: 'ready', ...fields }));

describe('log lines for people', () => {
  it('show time, trouble, message and fields', () => {
    expect(line({})).toMatch(/^\d\d:\d\d:\d\d ready\n$/);
    expect(line({ level: 40, model: 'a b', n: 2 })).toMatch(/warning ready model=a b n=2\n$/);
    expect(line({ level: 50, err: { message: 'x', stack: 'Error: x\n  at y' } })).toMatch(
      /error ready\nError: x\n {2}at y\n$/,
    );
  });

  it('show what a client chose, and do not obey it', () => {
    const evil = 'a\r\n12:00:00 ready\u001B[2J\u009B2J\tb';
    const shown = line({ msg: `GET ${evil}`, name: evil, list: [evil], err: { stack: `Error: ${evil}\n  at y` } });
    expect(shown.split('\n')).toHaveLength(5);
    expect(shown).toContain('GET a\uFFFD\uFFFD12:00:00 ready\uFFFD[2J\uFFFD2J\uFFFDb name=a\uFFFD');
    expect(shown.replaceAll('\n', '')).not.toMatch(/\p{Cc}/u);
  });
});

describe('progress bar', () => {
  it('shows the share done and stays in its bounds', () => {
    expect(drawBar('m', { phase: 'building', done: 0.5 })).toBe(`m: building ${'█'.repeat(12)}${'░'.repeat(12)} 50 %`);
    expect(drawBar('m', { phase: 'building', done: 7 })).toContain('100 %');
    expect(drawBar('m', { phase: 'building', done: -1 })).toContain(' 0 %');
  });

  it('never reaches the end of a terminal line', () => {
    const bytes = { done: 1e9, total: 2e9 };
    for (const columns of [1, 10, 40, 60, 80]) {
      const bar = drawBar('some/model-with-a-name', { phase: 'downloading', done: 0.5, bytes }, columns);
      expect(bar.length).toBeLessThan(columns);
      if (columns === 80) expect(bar).toMatch(/█░+ 50 % \(1 GB of 2 GB\)$/);
    }
  });

  it('tells the bytes of a download', () => {
    const bytes = { done: 1_234_567, total: 2.5e9 };
    expect(drawBar('m', { phase: 'downloading', done: 0, bytes })).toMatch(/ 0 % \(1\.23 MB of 2\.5 GB\)$/);
    expect([0, 999, 1000, 999_600, 123_456].map(formatSize)).toEqual(['0 B', '999 B', '1 kB', '1 MB', '123 kB']);
  });
});
