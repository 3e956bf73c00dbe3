import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ServiceError } from '../../../protocol/errors.ts';
import { defaultSampling } from '../../../protocol/sampling.ts';
import { Lobby } from '../../../src/engine/lobby.ts';
import type { EngineSink, SubmitOptions } from '../../../src/engine/types.ts';
import { defaultQueue } from '../../../src/engine/waiting-room.ts';
import { chat } from '../support/collect.ts';

const ignore = (): void => {};
const options = (more: Partial<SubmitOptions> = {}): SubmitOptions => ({
  tenant: 't',
  session: '',
  class: 'chat',
  prompt: chat('hi'),
  toolNames: [],
  sampling: defaultSampling,
  ...more,
});

interface Ends extends EngineSink {
  ends: string[];
}

function sink(): Ends {
  const ends: string[] = [];
  return {
    ends,
    onEncoded: ignore,
    onPrompt: ignore,
    onPrefill: ignore,
    onToken: ignore,
    onText: ignore,
    onLogprobs: ignore,
    onToolBegin: ignore,
    onToolDelta: ignore,
    onToolEnd: ignore,
    onEnd: (reason, error) => void ends.push(error?.code ?? reason),
  };
}

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

describe('Lobby', () => {
  it('hands requests over in order, with their ids, what is left of their time, and who was parked', () => {
    const lobby = new Lobby(defaultQueue);
    const [a] = lobby.enter(options({ deadlineMs: 1000 }), [sink()]);
    const ids = lobby.enter(options({ tenant: 'u' }), [sink(), sink()]);
    lobby.park(a!);
    lobby.park(ids[0]!);
    lobby.unpark(ids[0]!);
    vi.advanceTimersByTime(400);
    const taken: [number[], number | undefined][] = [];
    const parked = lobby.admitAll((given, sinks, given2) => {
      expect(sinks).toHaveLength(given2.length);
      taken.push([[...given2], given.deadlineMs === undefined ? undefined : Math.round(given.deadlineMs)]);
    });
    expect(taken).toEqual([
      [[a], 600],
      [ids, undefined],
    ]);
    expect(parked).toEqual([a]);
    expect(lobby.size).toBe(0);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('ends what is cancelled once, outside of the call, and hands over the rest', async () => {
    const lobby = new Lobby(defaultQueue);
    const onEnded = vi.fn();
    lobby.onEnded = onEnded;
    const sinks = [sink(), sink()];
    const ids = lobby.enter(options(), sinks);
    lobby.cancel(ids[0]!);
    lobby.cancel(ids[0]!);
    lobby.cancel(12345);
    expect(sinks[0]!.ends).toEqual([]);
    await Promise.resolve();
    expect(sinks[0]!.ends).toEqual(['cancelled']);
    expect(onEnded).toHaveBeenCalledTimes(1);
    const taken: number[] = [];
    lobby.admitAll((_options, _sinks, left) => void taken.push(...left));
    expect(taken).toEqual([ids[1]]);
  });

  it('gives up what waited for too long, and what is overdue before that', () => {
    const lobby = new Lobby({ ...defaultQueue, queueTimeoutMs: 500 });
    const [late, overdue] = [sink(), sink()];
    lobby.enter(options(), [late]);
    lobby.enter(options({ deadlineMs: 100 }), [overdue]);
    vi.advanceTimersByTime(100);
    expect([late.ends, overdue.ends]).toEqual([[], ['deadline_exceeded']]);
    vi.advanceTimersByTime(400);
    expect(late.ends).toEqual(['queue_timeout']);
    expect(lobby.size).toBe(0);
  });

  it('takes as many as may wait, and counts them out again', () => {
    const lobby = new Lobby({ ...defaultQueue, queueSize: 3, tenantQueueSize: 2 });
    lobby.enter(options(), [sink(), sink()]);
    expect(() => lobby.enter(options(), [sink()])).toThrow(expect.objectContaining({ code: 'rate_limited' }));
    lobby.enter(options({ tenant: 'u' }), [sink()]);
    expect(() => lobby.enter(options({ tenant: 'v' }), [sink()])).toThrow(
      expect.objectContaining({ code: 'overloaded' }),
    );
    lobby.refuseAll(new ServiceError('model_loading', 'no'));
    expect(() => lobby.enter(options(), [sink(), sink()])).not.toThrow();
  });

  it('tells all that it will not be, and whom the engine does not want', () => {
    const lobby = new Lobby(defaultQueue);
    const sinks = [sink(), sink(), sink()];
    lobby.enter(options(), sinks.slice(0, 2));
    lobby.refuseAll(new ServiceError('model_loading', 'no'));
    lobby.enter(options(), sinks.slice(2));
    lobby.admitAll(() => {
      throw new ServiceError('overloaded', 'full');
    });
    expect(sinks.map(({ ends }) => ends)).toEqual([['model_loading'], ['model_loading'], ['overloaded']]);
  });
});
