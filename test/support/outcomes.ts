// How each test file of a run ended, and what `npm test` makes of it: a file that failed is repeated alone, and only what
// fails again counts. As a reporter of vitest it writes the outcomes to the file named by TEST_OUTCOMES.
import { writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import type { Reporter, TestModule, Vitest } from 'vitest/node';

export interface FileOutcome {
  /** Path from the root of the project. */
  file: string;
  seconds: number;
  passed: number;
  skipped: number;
  /** Names of failed tests, OUTSIDE for faults of the file itself. Empty: the file passed. */
  failures: string[];
}

export interface Outcomes {
  files: FileOutcome[];
  /** Messages of errors that belong to no file; they fail the run, whatever the files did. */
  strays: string[];
}

export interface Verdict {
  passed: number;
  skipped: number;
  /** `file › test` of what failed once and passed when it was repeated. */
  flakes: string[];
  /** `file › test` of what failed the last time it ran. */
  failures: string[];
}

type RunError = Parameters<NonNullable<Reporter['onTestRunEnd']>>[1][number];

/** A file that does not load, a hook that throws, an error that nobody caught, a process that died. */
const OUTSIDE = '(outside of its tests)';

export default class OutcomeReporter implements Reporter {
  #root = '';

  onInit(vitest: Vitest): void {
    this.#root = vitest.config.root;
  }

  onTestRunEnd(modules: readonly TestModule[], errors: readonly RunError[]): void {
    const files = modules.map((module) => this.#outcome(module));
    const strays: string[] = [];
    for (const error of errors) {
      // Errors inside a file have its path; of a process that died only the text says which file it ran.
      const hints = [error.VITEST_TEST_PATH, error.message, error.cause?.message].join('\n');
      const owner = files.find(({ file }) => hints.includes(join(this.#root, file)));
      if (owner === undefined) strays.push(`(outside of any file) ${error.message}`);
      else if (!owner.failures.includes(OUTSIDE)) owner.failures.push(OUTSIDE);
    }
    const outcomes: Outcomes = { files, strays };
    const file = process.env.TEST_OUTCOMES;
    if (file !== undefined) writeFileSync(file, JSON.stringify(outcomes));
  }

  #outcome(module: TestModule): FileOutcome {
    const tests = [...module.children.allTests()];
    const count = (state: string): number => tests.filter((test) => test.result().state === state).length;
    const failures = tests.filter((test) => test.result().state === 'failed').map((test) => test.fullName);
    const isOver = ['passed', 'skipped'].includes(module.state());
    const isBroken = [module, ...module.children.allSuites()].some((part) => part.errors().length > 0);
    if (isBroken || (!isOver && failures.length === 0)) failures.push(OUTSIDE);
    return {
      file: relative(this.#root, module.moduleId),
      seconds: module.diagnostic().duration / 1000,
      passed: count('passed'),
      skipped: count('skipped'),
      failures,
    };
  }
}

/** Takes a repeated file's outcome for its own: whatever it failed with the first time and not again is a flake. */
export function judge(first: Outcomes, repeated: readonly FileOutcome[]): Verdict {
  const verdict: Verdict = { passed: 0, skipped: 0, flakes: [], failures: [] };
  for (const before of first.files) {
    const last = repeated.find(({ file }) => file === before.file) ?? before;
    verdict.passed += last.passed;
    verdict.skipped += last.skipped;
    verdict.failures.push(...last.failures.map((name) => `${last.file} › ${name}`));
    const flakes = before.failures.filter((name) => !last.failures.includes(name));
    verdict.flakes.push(...flakes.map((name) => `${before.file} › ${name}`));
  }
  verdict.failures.push(...first.strays);
  return verdict;
}
