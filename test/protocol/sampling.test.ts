import { describe, expect, it } from 'vitest';
import { defaultSampling, resolveSampling } from '../../protocol/sampling.ts';

describe('resolveSampling', () => {
  it('is the defaults when nothing was given', () => {
    expect(resolveSampling()).toEqual(defaultSampling);
    expect(resolveSampling(undefined, {})).toEqual(defaultSampling);
  });

  it('lets later layers win, null included, and passes over undefined', () => {
    const session = { temperature: 0.5, seed: 7, stop: ['a'] };
    const request = { temperature: undefined, seed: null, topK: 3 };
    const expected = { ...defaultSampling, temperature: 0.5, seed: null, stop: ['a'], topK: 3 };
    expect(resolveSampling(session, request)).toEqual(expected);
  });

  it('never hands out the stop array of the defaults', () => {
    resolveSampling().stop.push('x');
    expect(defaultSampling.stop).toEqual([]);
  });
});
