// `npm test`: everything, part by part, with the time of each and one closing line. Goes on after a failing part, so
// that one run tells all. A test file that failed is repeated once, alone, when all else is done: what passes then is
// reported as a flake, and only what fails twice fails the run.
// Usage: npm test [-- PART…], parts: typecheck lint unit integration model browser.
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { judge } from './support/outcomes.ts';
import type { FileOutcome, Outcomes } from './support/outcomes.ts';

const checks: Record<string, string[][]> = {
  typecheck: [['tsc', '--noEmit']],
  lint: [
    ['oxlint', '--deny-warnings'],
    ['oxfmt', '--check'],
  ],
};
const suites = ['unit', 'integration', 'model', 'browser'];
const all = [...Object.keys(checks), ...suites];
const NUM_SLOWEST = 5;
const reporter = fileURLToPath(new URL('./support/outcomes.ts', import.meta.url));

const wanted = process.argv.slice(2);
const unknown = wanted.filter((part) => !all.includes(part));
if (unknown.length > 0 || wanted.includes('--help')) {
  console.log(`usage: npm test [-- PART…]\nparts: ${all.join(', ')}`);
  process.exit(unknown.length > 0 ? 2 : 0);
}

const reports = mkdtempSync(join(tmpdir(), 'tokenwire-test-'));
const totals = { passed: 0, failed: 0, skipped: 0 };
const lines: string[] = [];
const ran = new Map<string, Outcomes>();
const startedMs = performance.now();

for (const part of wanted.length > 0 ? wanted : all)
  await timed(part, () => (checks[part] ? check(part) : suite(part)));

const repeated = new Map<string, FileOutcome[]>();
for (const [project, { files }] of ran) {
  const again: FileOutcome[] = [];
  for (const { file } of files.filter(({ failures }) => failures.length > 0)) {
    await timed(`${project} again`, async () => {
      const { files: outcomes, strays } = await vitest(project, [file]);
      const outcome = outcomes.find((one) => one.file === file);
      // It ran alone, so whatever went wrong is its own.
      const failures = [...(outcome?.failures ?? []), ...strays];
      again.push({ file, seconds: 0, passed: 0, skipped: 0, ...outcome, failures });
      return `${file}: ${failures.length > 0 ? 'FAILED again' : 'passed when repeated alone'}`;
    });
  }
  repeated.set(project, again);
}

const flakes: string[] = [];
const failures: string[] = [];
for (const [project, outcomes] of ran) {
  const verdict = judge(outcomes, repeated.get(project) ?? []);
  totals.passed += verdict.passed;
  totals.skipped += verdict.skipped;
  totals.failed += verdict.failures.length;
  flakes.push(...verdict.flakes);
  failures.push(...verdict.failures);
}
rmSync(reports, { recursive: true, force: true });

console.log(`\n${lines.join('\n')}`);
printSlowest([...ran.values()].flatMap(({ files }) => files));
const minutes = ((performance.now() - startedMs) / 60_000).toFixed(1);
const machine = `${cpus().length} × ${cpus()[0]?.model ?? 'unknown CPU'}, Node ${process.version}`;
console.log(`\n${minutes} minutes on ${machine}, load ${loadavg()[2]!.toFixed(1)} over the last fifteen\n`);
for (const name of flakes) console.log(`FLAKY, failed once, passed when repeated: ${name}`);
for (const name of failures) console.log(`FAILED: ${name}`);
const flaky = flakes.length > 0 ? `, ${flakes.length} FLAKY` : '';
console.log(`${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped${flaky}`);
process.exitCode = totals.failed > 0 ? 1 : 0;

/** Runs one part under its title and keeps its line for the summary. */
async function timed(title: string, act: () => Promise<string>): Promise<void> {
  const sinceMs = performance.now();
  console.log(`\n── ${title} ──`);
  const summary = await act();
  const seconds = ((performance.now() - sinceMs) / 1000).toFixed(1);
  lines.push(`${title.padEnd(17)} ${seconds.padStart(6)} s   ${summary}`);
}

/** A check counts as one test per command. */
async function check(part: string): Promise<string> {
  const codes: number[] = [];
  for (const [command, ...args] of checks[part]!) codes.push(await run(command!, args));
  const failed = codes.filter((code) => code !== 0).length;
  totals.failed += failed;
  totals.passed += codes.length - failed;
  return failed > 0 ? 'FAILED' : 'ok';
}

async function suite(project: string): Promise<string> {
  const outcomes = await vitest(project, []);
  ran.set(project, outcomes);
  const { passed, skipped, failures: failed } = judge(outcomes, []);
  return `${passed} passed, ${failed.length} failed, ${skipped} skipped`;
}

/** Runs one suite, or these files of it. */
async function vitest(project: string, files: string[]): Promise<Outcomes> {
  const TEST_OUTCOMES = join(reports, `${project}.json`);
  rmSync(TEST_OUTCOMES, { force: true });
  const args = ['run', '--project', project, '--reporter=default', `--reporter=${reporter}`, ...files];
  const code = await run('vitest', args, { TEST_OUTCOMES });
  let outcomes: Outcomes;
  try {
    outcomes = JSON.parse(readFileSync(TEST_OUTCOMES, 'utf8')) as Outcomes;
  } catch {
    outcomes = { files: [], strays: [`${project} ended with code ${code} and without a report`] };
  }
  const isExplained = outcomes.strays.length > 0 || outcomes.files.some((file) => file.failures.length > 0);
  if (code !== 0 && !isExplained) outcomes.strays.push(`${project} ended with code ${code}, though every file passed`);
  return outcomes;
}

function printSlowest(files: FileOutcome[]): void {
  const slowest = files.toSorted((a, b) => b.seconds - a.seconds).slice(0, NUM_SLOWEST);
  for (const { file, seconds } of slowest) console.log(`${seconds.toFixed(1).padStart(24)} s   ${file}`);
}

function run(command: string, args: string[], env: Record<string, string> = {}): Promise<number> {
  const options = { stdio: 'inherit', shell: process.platform === 'win32', env: { ...process.env, ...env } } as const;
  const child = spawn(command, args, options);
  return new Promise((resolve) => {
    child.on('exit', (code) => resolve(code ?? 1));
    child.on('error', (error) => {
      console.error(`${command}: ${error.message}`);
      resolve(1);
    });
  });
}
