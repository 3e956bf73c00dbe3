// A soak on a running server: visitors that do one thing after the other, at random, for as long as asked; then everybody
// leaves, and what the server still holds is looked at. Called by the bench `soak` and, for a minute, by the tests.
import { setTimeout as sleep } from 'node:timers/promises';
import { nativeVisits } from './native-visits.ts';
import { httpVisits } from './http-visits.ts';
import { Ledger } from './ledger.ts';
import { Visitor } from './visit.ts';
import type { Visit } from './visit.ts';
import { leftovers, Watch } from './watch.ts';
import type { Minute } from './watch.ts';

export interface SoakOptions {
  port: number;
  seconds: number;
  visitors: number;
  seed: number;
  /** Orders a failure of an engine worker this often; only the fake model with `faults` obeys. 0: never. */
  faultEveryMs: number;
  onMinute?: (minute: Minute, index: number) => void;
  /** What counts as a minute, milliseconds. */
  minuteMs?: number;
}

export interface SoakResult {
  ledger: Ledger;
  watch: Watch;
  /** What the server still held when everybody had left, by metric. */
  left: Map<string, number>;
}

/** Longer than the grace time of a connection that never came back, and than parking. */
const LEAVE_MS = 130_000;
/** A visit that takes longer hangs. Beside other jobs a stream may get a few tokens a second, and some want 1,500. */
const VISIT_MS = 900_000;

const visits: readonly [string, Visit][] = Object.entries({ ...nativeVisits, ...httpVisits });

export async function soak(options: SoakOptions): Promise<SoakResult> {
  const { port, seed, seconds, faultEveryMs, minuteMs = 60_000, onMinute = () => undefined } = options;
  const url = `http://127.0.0.1:${port}`;
  const ledger = new Ledger();
  const watch = new Watch(url, minuteMs, onMinute);
  const untilMs = performance.now() + seconds * 1000;
  const isOver = (): boolean => performance.now() >= untilMs;
  const live = async (index: number): Promise<void> => {
    const visitor = await Visitor.arrive(port, seed * 1000 + index, ledger);
    while (!isOver()) await pay(visitor, visits[visitor.pick(visits.length)]!);
    await visitor.leave();
  };
  const saboteur = faultEveryMs > 0 ? sabotage(port, ledger, faultEveryMs, isOver) : Promise.resolve();
  await Promise.all([...Array.from({ length: options.visitors }, (_, index) => live(index)), saboteur]);
  await watch.stop();
  return { ledger, watch, left: await leftovers(url, LEAVE_MS) };
}

async function pay(visitor: Visitor, [kind, visit]: [string, Visit]): Promise<void> {
  visitor.ledger.visit(kind);
  const timer = new AbortController();
  const started = performance.now();
  try {
    const late = sleep(VISIT_MS, 'late' as const, { signal: timer.signal, ref: false });
    late.catch(() => undefined);
    const end = await Promise.race([visit(visitor), late]);
    if (end === 'late') visitor.ledger.wrong(`${kind}: not over after ${VISIT_MS / 1000} s`);
  } catch (error) {
    visitor.ledger.error(kind, error);
  } finally {
    timer.abort();
    visitor.ledger.took(kind, performance.now() - started);
  }
}

async function sabotage(port: number, ledger: Ledger, everyMs: number, isOver: () => boolean): Promise<void> {
  const visitor = await Visitor.arrive(port, 1, ledger);
  for (let fault = 0; !isOver(); fault++) {
    await sleep(everyMs);
    const content = fault % 2 === 0 ? '!!throw !!' : '!!prefill-throw !!';
    ledger.visit('fault');
    await visitor.finish('fault', visitor.client.create({ messages: [{ role: 'user', content }] }));
  }
  await visitor.leave();
}
