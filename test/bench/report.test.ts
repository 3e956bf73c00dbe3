// What a result says about itself, and the list of benches.
import { describe, expect, it } from 'vitest';
import { benches } from '../../bench/bench.ts';
import { commonFlags } from '../../bench/flags.ts';
import { readCircumstances, Report } from '../../bench/report.ts';

const circumstances = {
  machine: { cpu: 'test', cores: 2 },
  node: 'v22.0.0',
  commit: 'abc',
  seed: 9,
  date: '2026-11-22T00:00:00.000Z',
};

describe('Report', () => {
  it('writes one JSON line per result, with the circumstances', () => {
    const lines: string[] = [];
    const report = new Report('serve', circumstances, (line) => lines.push(line));
    report.add('rate', 1234.5678, 'tokens/s', { streams: 16 });
    expect(lines).toHaveLength(1);
    expect(JSON.parse(lines[0]!)).toEqual({
      bench: 'serve',
      what: 'rate',
      at: { streams: 16 },
      value: 1234.6,
      unit: 'tokens/s',
      ...circumstances,
    });
  });

  it('writes null for a value that could not be measured', () => {
    const lines: string[] = [];
    const report = new Report('serve', circumstances, (line) => lines.push(line));
    report.add('rate', NaN, 'tokens/s');
    expect(JSON.parse(lines[0]!)).toMatchObject({ value: null });
    expect(report.table()).toMatch(/rate +- tokens\/s/);
  });

  it('says whether the client was the limit', () => {
    const report = new Report('serve', circumstances, () => {});
    report.client(0.4);
    report.client(0.95);
    expect(report.results.map(({ at }) => at.clientWasTheLimit)).toEqual(['no', 'yes']);
  });

  it('knows machine, runtime and commit', () => {
    const found = readCircumstances(1);
    expect(found.machine.cores).toBeGreaterThan(0);
    expect(found.node).toBe(process.version);
    expect(found.commit).toMatch(/^([0-9a-f]{6,}\+?|unknown)$/);
  });
});

describe('benches', () => {
  it.each(Object.entries(benches))('%s asks a question and declares its flags', async (_name, entry) => {
    expect(entry.question).toMatch(/\?$/);
    const { bench } = await entry.load();
    for (const [name, spec] of Object.entries(bench.flags)) {
      expect(Object.keys(commonFlags)).not.toContain(name);
      expect(spec.meaning).not.toBe('');
    }
  });
});
