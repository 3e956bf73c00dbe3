// `npm test`: everything, part by part, with the time of each and one closing line. Goes on after a failing part, so
// that one run tells all. Usage: npm test [-- PART…], parts: typecheck lint unit integration model browser.
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const checks: Record<string, string[][]> = {
  typecheck: [['tsc', '--noEmit']],
  lint: [
    ['oxlint', '--deny-warnings'],
    ['oxfmt', '--check'],
  ],
};
const suites = ['unit', 'integration', 'model', 'browser'];
const all = [...Object.keys(checks), ...suites];

interface Report {
  numPassedTests: number;
  numFailedTests: number;
  numPendingTests: number;
  numTotalTestSuites: number;
}

const wanted = process.argv.slice(2);
const unknown = wanted.filter((part) => !all.includes(part));
if (unknown.length > 0 || wanted.includes('--help')) {
  console.log(`usage: npm test [-- PART…]\nparts: ${all.join(', ')}`);
  process.exit(unknown.length > 0 ? 2 : 0);
}

const reports = mkdtempSync(join(tmpdir(), 'tokenwire-test-'));
const totals = { passed: 0, failed: 0, skipped: 0 };
const lines: string[] = [];

for (const part of wanted.length > 0 ? wanted : all) {
  const started = performance.now();
  console.log(`\n── ${part} ──`);
  const summary = suites.includes(part) ? await runSuite(part) : await runChecks(checks[part]!);
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  lines.push(`${part.padEnd(12)} ${seconds.padStart(6)} s   ${summary}`);
}

rmSync(reports, { recursive: true, force: true });
console.log(`\n${lines.join('\n')}\n`);
console.log(`${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped`);
process.exitCode = totals.failed > 0 ? 1 : 0;

/** A check counts as one test per command. */
async function runChecks(commands: string[][]): Promise<string> {
  const codes: number[] = [];
  for (const [command, ...args] of commands) codes.push(await run(command!, args));
  const failed = codes.filter((code) => code !== 0).length;
  totals.failed += failed;
  totals.passed += codes.length - failed;
  return failed > 0 ? 'FAILED' : 'ok';
}

async function runSuite(project: string): Promise<string> {
  const file = join(reports, `${project}.json`);
  const args = ['run', '--project', project, '--reporter=default', '--reporter=json', `--outputFile=${file}`];
  const code = await run('vitest', args);
  let report: Report;
  try {
    report = JSON.parse(readFileSync(file, 'utf8')) as Report;
  } catch {
    totals.failed++;
    return `FAILED (no report, exit code ${code})`;
  }
  const { numPassedTests: passed, numFailedTests: failed, numPendingTests: skipped } = report;
  totals.passed += passed;
  totals.skipped += skipped;
  // A file that cannot be loaded, or an error outside of a test, fails the run without a failed test.
  totals.failed += Math.max(failed, code === 0 ? 0 : 1);
  return `${passed} passed, ${failed} failed, ${skipped} skipped${code === 0 ? '' : '   FAILED'}`;
}

function run(command: string, args: string[]): Promise<number> {
  const child = spawn(command, args, { stdio: 'inherit', shell: process.platform === 'win32' });
  return new Promise((resolve) => {
    child.on('exit', (code) => resolve(code ?? 1));
    child.on('error', (error) => {
      console.error(`${command}: ${error.message}`);
      resolve(1);
    });
  });
}
