import { describe, expect, it } from 'vitest';
import { StopMatcher, partialEnd } from '../../../workers/text/stop.ts';
import { seeded } from './support.ts';

function run(stops: string[], pieces: string[]): { shown: string[]; isStopped: boolean; rest: string } {
  const matcher = new StopMatcher(stops);
  const shown = pieces.map((piece) => matcher.push(piece));
  return { shown, isStopped: matcher.isStopped, rest: matcher.finish() };
}

describe('StopMatcher', () => {
  it('finds a stop string across pieces and shows what stands before it', () => {
    expect(run(['END'], ['some E', 'N', 'D more'])).toEqual({ shown: ['some ', '', ''], isStopped: true, rest: '' });
  });

  it('lets go of held text as soon as it cannot become a stop', () => {
    expect(run(['END'], ['E', 'N', 'E', 'x'])).toEqual({ shown: ['', '', 'EN', 'Ex'], isStopped: false, rest: '' });
  });

  it('gives back held text when the answer ends', () => {
    expect(run(['\n\nUser:'], ['bye\n', '\n'])).toEqual({ shown: ['bye', ''], isStopped: false, rest: '\n\n' });
  });

  it('stops at the string that is complete first', () => {
    expect(run(['abcd', 'c'], ['xabcd']).shown).toEqual(['xab']);
    expect(run(['bc', 'abc'], ['xabc']).shown).toEqual(['x']);
  });

  it('shows nothing after the stop and ignores empty stop strings', () => {
    expect(run(['.', ''], ['a.', 'b']).shown).toEqual(['a', '']);
    expect(run([''], ['a']).shown).toEqual(['a']);
  });

  it('shows the same text however it is cut, holds back the least, and survives moves', () => {
    const seed = 271_828;
    const random = seeded(seed);
    const letters = 'ab😀\n';
    const word = (max: number): string =>
      Array.from({ length: 1 + random.int(max) }, () => letters[random.int(letters.length)]).join('');
    for (let round = 0; round < 3000; round++) {
      const stops = Array.from({ length: 1 + random.int(3) }, () => word(4));
      const text = word(14);
      // The plain reading: unit by unit, the first moment the text ends with a stop.
      let expected = text;
      for (let end = 1; end <= text.length && expected === text; end++) {
        const longest = stops
          .filter((stop) => text.slice(0, end).endsWith(stop))
          .sort((a, b) => b.length - a.length)[0];
        if (longest !== undefined) expected = text.slice(0, end - longest.length);
        if (longest !== undefined) break;
      }
      const where = `seed ${seed}, round ${round}: ${JSON.stringify({ stops, text })}`;
      let matcher = new StopMatcher(stops);
      let shown = '';
      for (let at = 0; at < text.length && !matcher.isStopped;) {
        const next = at + 1 + random.int(4);
        shown += matcher.push(text.slice(at, next));
        at = next;
        const held = matcher.snapshot().held;
        const isNeeded = held === '' || stops.some((stop) => stop !== held && stop.startsWith(held));
        expect(isNeeded, `${where}: holds ${JSON.stringify(held)}`).toBe(true);
        matcher = new StopMatcher(stops, structuredClone(matcher.snapshot()));
      }
      expect(shown + matcher.finish(), where).toBe(expected);
    }
  });
});

describe('partialEnd', () => {
  it('measures the longest end that begins a word', () => {
    expect(partialEnd('xaab', 'aabc')).toBe(3);
    expect(partialEnd('aaa', 'aab')).toBe(2);
    expect(partialEnd('abc', 'abc')).toBe(0);
    expect(partialEnd('', 'abc')).toBe(0);
    expect(partialEnd('abc', '')).toBe(0);
  });
});
