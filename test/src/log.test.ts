import { describe, expect, it } from 'vitest';
import { formatLine } from '../../src/log.ts';
import { drawBar } from '../../src/progress.ts';

const line = (fields: object) => formatLine(JSON.stringify({ level: 30, time: 0, msg: 'ready', ...fields }));

describe('log lines for people', () => {
  it('show time, trouble, message and fields', () => {
    expect(line({})).toMatch(/^\d\d:\d\d:\d\d ready\n$/);
    expect(line({ level: 40, model: 'a b', n: 2 })).toMatch(/warning ready model=a b n=2\n$/);
    expect(line({ level: 50, err: { message: 'x', stack: 'Error: x\n  at y' } })).toMatch(
      /error ready\nError: x\n {2}at y\n$/,
    );
  });
});

describe('progress bar', () => {
  it('shows the share done and stays in its bounds', () => {
    expect(drawBar('m', 'building', 0.5)).toBe(`m: building ${'█'.repeat(12)}${'░'.repeat(12)} 50 %`);
    expect(drawBar('m', 'building', 7)).toContain('100 %');
    expect(drawBar('m', 'building', -1)).toContain(' 0 %');
  });
});
