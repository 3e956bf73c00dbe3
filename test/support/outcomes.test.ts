import { describe, expect, it } from 'vitest';
import { judge } from './outcomes.ts';
import type { FileOutcome, Outcomes } from './outcomes.ts';

function outcome(file: string, passed: number, ...failures: string[]): FileOutcome {
  return { file, seconds: 1, passed, skipped: 1, failures };
}

function run(...files: FileOutcome[]): Outcomes {
  return { files, strays: [] };
}

describe('The verdict on a run of tests', () => {
  it('adds up what passed, failed and was skipped', () => {
    const verdict = judge(run(outcome('a', 3), outcome('b', 1, 'one', 'two')), []);
    expect(verdict).toEqual({ passed: 4, skipped: 2, flakes: [], failures: ['b › one', 'b › two'] });
  });

  it('counts a file as it ended when it was repeated, and names what failed only once', () => {
    const first = run(outcome('a', 3, 'one'), outcome('b', 1, 'one', 'two'));
    const verdict = judge(first, [outcome('a', 4), outcome('b', 2, 'two')]);
    expect(verdict).toEqual({ passed: 6, skipped: 2, flakes: ['a › one', 'b › one'], failures: ['b › two'] });
  });

  it('counts what fails only when it is repeated', () => {
    const verdict = judge(run(outcome('a', 3, 'one')), [outcome('a', 3, 'other')]);
    expect(verdict).toMatchObject({ flakes: ['a › one'], failures: ['a › other'] });
  });

  it('never forgives an error that belongs to no file', () => {
    expect(judge({ files: [outcome('a', 3)], strays: ['lost'] }, []).failures).toEqual(['lost']);
  });
});
