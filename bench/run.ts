// `npm run bench -- NAME [--flags]`: picks a bench by name, hands it its flags and a report. Exit 2: wrong usage.
import { benches } from './bench.ts';
import { commonFlags, flagHelp, parseFlags, UsageError } from './flags.ts';
import { readCircumstances, Report } from './report.ts';

function overview(): string {
  const width = Math.max(...Object.keys(benches).map((name) => name.length)) + 2;
  const lines = Object.entries(benches).map(([name, { question }]) => `  ${name.padEnd(width)}${question}`);
  return ['npm run bench -- NAME [--flags]', '', ...lines, '', 'NAME --help lists the flags of one bench.'].join('\n');
}

async function main(args: readonly string[]): Promise<void> {
  const [name, ...rest] = args;
  if (name === undefined || name === '--help' || name === '-h') {
    process.stdout.write(`${overview()}\n`);
    return;
  }
  const entry = Object.hasOwn(benches, name) ? benches[name] : undefined;
  if (entry === undefined) {
    throw new UsageError(`there is no bench "${name}"; there are ${Object.keys(benches).join(', ')}`);
  }
  const { bench } = await entry.load();
  const specs = { ...bench.flags, ...commonFlags };
  const flags = parseFlags(rest, specs);
  if (flags.isOn('help')) {
    process.stdout.write(`${name}: ${entry.question}\n\n${flagHelp(specs).join('\n')}\n`);
    return;
  }
  const report = new Report(name, readCircumstances(flags.integer('seed')), (line) =>
    process.stdout.write(`${line}\n`),
  );
  await bench.run(flags, report);
  if (process.stderr.isTTY || flags.isOn('table')) process.stderr.write(`${report.table()}\n`);
}

main(process.argv.slice(2)).catch((error: unknown) => {
  const isUsage = error instanceof UsageError;
  process.stderr.write(isUsage ? `bench: ${error.message}\n` : `${error instanceof Error ? error.stack : error}\n`);
  process.exitCode = isUsage ? 2 : 1;
});
