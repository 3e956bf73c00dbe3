// The arithmetic behind the benches' figures, on samples small enough to compute by hand.
import { describe, expect, it } from 'vitest';
import { decodePhase, firstTokenTimes, gaps, tokensWithin, type RequestRecord } from '../../bench/load/records.ts';
import { cpuShares, histogramQuantile, Metrics } from '../../bench/server-process.ts';
import { median, percentile } from '../../bench/statistics.ts';
import { random } from '../support/random.ts';

/** A request of one token per arrival. */
function record(sentAtMs: number, times: number[]): RequestRecord {
  return {
    sentAtMs,
    arrivals: times.map((atMs) => ({ atMs, units: 1 })),
    endAtMs: times.at(-1) ?? sentAtMs,
    promptTokens: 64,
    completionTokens: times.length,
    cachedTokens: 0,
    timings: null,
  };
}

/** Cumulative counts of three buckets of class voice, and some other series. */
function metricsText(counts: number[]): string {
  return [
    '# HELP tokenwire_delay_seconds x',
    `tokenwire_delay_seconds_bucket{le="0.001",class="voice"} ${counts[0]}`,
    `tokenwire_delay_seconds_bucket{le="0.002",class="voice"} ${counts[1]}`,
    `tokenwire_delay_seconds_bucket{le="+Inf",class="voice"} ${counts[2]}`,
    'tokenwire_delay_seconds_bucket{le="+Inf",class="chat"} 99',
    'tokenwire_steps_total{model="a"} 3',
    'tokenwire_steps_total{model="b"} 4',
    'tokenwire_plain 5',
  ].join('\n');
}

function readBuckets(counts: number[]): Map<number, number> {
  return new Metrics(metricsText(counts)).buckets('delay_seconds', 'class="voice"');
}

describe('statistics', () => {
  it('takes percentiles by nearest rank and medians between two', () => {
    expect(percentile([5, 1, 4, 2, 3], 0.5)).toBe(3);
    expect(percentile([5, 1, 4, 2, 3], 0.99)).toBe(5);
    expect(percentile([7], 0)).toBe(7);
    expect(percentile([], 0.5)).toBeNaN();
    expect(median([1, 2, 3, 10])).toBe(2.5);
    expect(median([])).toBeNaN();
  });

  it('draws the same numbers from the same seed', () => {
    const first = random(42);
    const second = random(42);
    const draws = Array.from({ length: 100 }, first);
    expect(draws).toEqual(Array.from({ length: 100 }, second));
    expect(draws.every((value) => value >= 0 && value < 1)).toBe(true);
    expect(draws).not.toEqual(Array.from({ length: 100 }, random(43)));
  });
});

describe('records of a load', () => {
  it('counts tokens by the time of their arrival, whatever one arrival carries', () => {
    const one = { ...record(0, [10, 20, 30]), completionTokens: 8 };
    one.arrivals[1]!.units = 2;
    expect(tokensWithin([one], 0, 100)).toBe(8);
    expect(tokensWithin([one], 15, 25)).toBe(4);
    expect(tokensWithin([one], 20, 30)).toBe(4);
    expect(tokensWithin([record(0, [])], 0, 100)).toBe(0);
  });

  it('finds first-token times and gaps within a window only', () => {
    const records = [record(0, [10, 15, 30]), record(50, [70, 71])];
    expect(firstTokenTimes(records)).toEqual([10, 20]);
    expect(firstTokenTimes(records, 40, 60)).toEqual([20]);
    expect(gaps(records)).toEqual([5, 15, 1]);
    expect(gaps(records, 60, 100)).toEqual([1]);
  });

  it('takes as decode phase what lies between the last first token and the first last one', () => {
    const phase = decodePhase([record(0, [10, 20, 30, 40]), record(0, [20, 30, 35])]);
    expect(phase.ms).toBe(15);
    // Behind 20 and up to 35: one of the first request, two of the second.
    expect(phase.tokens).toBeCloseTo(3);
  });

  it('finds no decode phase where requests do not overlap or have no text', () => {
    expect(decodePhase([record(0, [10, 20]), record(0, [30, 40])])).toEqual({ tokens: 0, ms: 0 });
    expect(decodePhase([record(0, [10, 20]), record(0, [])])).toEqual({ tokens: 0, ms: 0 });
  });
});

describe('metrics of a server', () => {
  it('sums series by name and label', () => {
    const metrics = new Metrics(metricsText([1, 2, 3]));
    expect(metrics.value('steps_total')).toBe(7);
    expect(metrics.value('steps_total', 'model="b"')).toBe(4);
    expect(metrics.value('plain')).toBe(5);
    expect(metrics.value('steps')).toBe(0);
  });

  it('takes quantiles of what was counted between two readings', () => {
    const before = readBuckets([10, 10, 10]);
    expect(histogramQuantile(before, readBuckets([20, 30, 30]), 0.5)).toBeCloseTo(0.001);
    expect(histogramQuantile(before, readBuckets([20, 30, 30]), 0.75)).toBeCloseTo(0.0015);
    expect(histogramQuantile(before, before, 0.5)).toBeNaN();
    // Beyond the last bound nothing is known but that bound.
    expect(histogramQuantile(before, readBuckets([10, 10, 20]), 0.99)).toBe(0.002);
  });

  it('tells the main thread from the others', () => {
    const before = { main: 1, threads: new Map([[7, 1]]) };
    const threads = new Map([
      [7, 1.1],
      [8, 0.5],
      [9, 0.9],
    ]);
    const { main, others } = cpuShares(before, { main: 1.1, threads }, 1000);
    expect(main).toBeCloseTo(0.1);
    expect(others).toEqual([0.9, 0.5]);
  });
});
