// Replacing answers and giving up waiting, frame by frame.
import { afterEach, describe, expect, it } from 'vitest';
import type { ResponseStream, Session } from '../../clients/index.ts';
import { Op } from '../../protocol/messages.ts';
import { until } from './support/until.ts';
import { sessionInfo, Wire } from './support/wire.ts';

const wires: Wire[] = [];

afterEach(() => {
  for (const wire of wires.splice(0)) wire.client.close();
});

async function opened(): Promise<{ wire: Wire; session: Session }> {
  const wire = new Wire();
  wires.push(wire);
  wire.free.welcome();
  const session = wire.client.session({ class: 'ide' });
  await wire.openSession(sessionInfo('s'));
  await session.ready();
  return { wire, session };
}

const option = (create: unknown[]): unknown => (create[3] as { supersede?: unknown }).supersede;

/** Lets the client do all it would do without any answer. */
const moment = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 20));

describe('Supersede', () => {
  it('ends the answer that runs on the lane as replaced, and keeps it out of the conversation', async () => {
    const { wire, session } = await opened();
    const first = session.send('a');
    await wire.created(1, 1, 'resp_1', 's');
    wire.receive([Op.Deltas, 0, [[1, 1, 'stale']]]);
    const second = session.send('b', { supersede: 'lane' });
    expect(option(await wire.next(Op.Create, 2))).toBe('lane');
    await wire.created(2, 2, 'resp_2', 's');
    wire.done(1, 2, 'cancelled', 1);
    expect(await first.finished).toMatchObject({ reason: 'cancelled', cancelledBy: 'supersede', text: 'stale' });
    wire.receive([Op.Deltas, 0, [[2, 1, 'fresh']]]);
    wire.done(2, 2, 'stop', 1);
    await second.finished;
    expect(session.messages.map(({ content }) => content)).toEqual(['b', 'fresh']);
    expect(session.numTurns).toBe(1);
  });

  it('names an answer by its id, and takes a turn that had ended out of the conversation', async () => {
    const { wire, session } = await opened();
    const first = session.send('a');
    await wire.created(1, 1, 'resp_1', 's');
    wire.receive([Op.Deltas, 0, [[1, 1, 'done']]]);
    wire.done(1, 2, 'stop', 1);
    await first.finished;
    expect(session.numTurns).toBe(1);
    session.send('b', { supersede: first });
    expect(option(await wire.next(Op.Create, 2))).toBe('resp_1');
    await wire.created(2, 2, 'resp_2', 's');
    expect(session.messages).toEqual([]);
    expect(session.numTurns).toBe(0);
  });

  it('waits for the name of an answer that was just sent', async () => {
    const { wire, session } = await opened();
    const first = session.send('a');
    await wire.next(Op.Create);
    session.send('b', { supersede: first });
    await moment();
    expect(wire.sent(Op.Create).length).toBe(1);
    await wire.created(1, 1, 'resp_1', 's');
    expect(option(await wire.next(Op.Create, 2))).toBe('resp_1');
  });

  it.each<['lane' | 'chain']>([['lane'], ['chain']])(
    'without a connection leaves one create in the end (%s)',
    async (kind) => {
      const { wire, session } = await opened();
      const typed: ResponseStream[] = [session.send('a')];
      await wire.created(1, 1, 'resp_1', 's');
      wire.lose();
      for (const text of ['ab', 'abc', 'abcd']) {
        typed.push(session.send(text, { supersede: kind === 'lane' ? 'lane' : typed.at(-1)! }));
      }
      await until(() => wire.free.numOpened === 2);
      wire.free.welcome();
      await wire.resumed(1, true, 1, 'epoch');
      await wire.openSession(sessionInfo('s', { active: ['resp_1'] }), 2);
      const last = await wire.next(Op.Create, 2);
      expect(last[3]).toMatchObject({ messages: [{ content: 'abcd' }] });
      expect(option(last)).toBe(kind === 'lane' ? 'lane' : 'resp_1');
      for (const dropped of typed.slice(1, -1)) {
        expect(await dropped.finished).toMatchObject({ reason: 'cancelled', cancelledBy: 'supersede', text: '' });
      }
      await moment();
      expect(wire.sent(Op.Create).length).toBe(2);
    },
  );

  it('of an answer that is gone with its server goes on without it', async () => {
    const { wire, session } = await opened();
    const first = session.send('a');
    await wire.created(1, 1, 'resp_1', 's');
    wire.done(1, 1, 'stop', 1);
    await first.finished;
    session.send('b', { supersede: first });
    const [, lane, requestId] = await wire.next(Op.Create, 2);
    const error = { code: 'unknown_response', message: 'No.', param: 'supersede', retryable: false };
    wire.receive([Op.Error, lane as number, requestId as string, error]);
    const again = await wire.next(Op.Create, 3);
    expect(again[2]).toBe(requestId);
    expect(option(again)).toBeUndefined();
  });

  it('that was refused has replaced nothing', async () => {
    const { wire, session } = await opened();
    const first = session.send('a');
    await wire.created(1, 1, 'resp_1', 's');
    wire.receive([Op.Deltas, 0, [[1, 1, 'kept']]]);
    const second = session.send('b', { supersede: 'lane' });
    const [, lane, requestId] = await wire.next(Op.Create, 2);
    const error = { code: 'overloaded', message: 'Full.', retryable: true };
    wire.receive([Op.Error, lane as number, requestId as string, error]);
    await expect(second.finished).rejects.toMatchObject({ code: 'overloaded' });
    wire.done(1, 2, 'cancelled', 1);
    expect(await first.finished).toMatchObject({ cancelledBy: 'server' });
    expect(session.messages.at(-1)?.content).toBe('kept');
  });
});

describe('An AbortSignal', () => {
  it('ends the waiting of every call that takes one, with its reason', async () => {
    const { wire, session } = await opened();
    wire.lose();
    const abort = new AbortController();
    const { signal } = abort;
    const waiting = [
      wire.client.ready({ signal }),
      wire.client.list({ signal }),
      session.ready({ signal }),
      session.history({ signal }),
      session.rollback(0, { signal }),
      session.fork(0, { signal }),
    ];
    const reason = new Error('enough');
    abort.abort(reason);
    // Dialling may be quicker than the signal for what needs no answer.
    for (const [index, call] of waiting.entries()) {
      if (index > 0) await expect(call).rejects.toBe(reason);
      else await call.catch((error: unknown) => expect(error).toBe(reason));
    }
    await until(() => wire.free.numOpened === 2);
    wire.free.welcome();
    await wire.openSession(sessionInfo('s'), 2);
    await session.ready();
    await moment();
    for (const op of [Op.ListSessions, Op.History, Op.Rollback, Op.Fork]) expect(wire.sent(op)).toEqual([]);
  });

  it('given to connect closes the client', async () => {
    const abort = new AbortController();
    const wire = new Wire({ signal: abort.signal });
    wire.free.welcome();
    abort.abort();
    expect(wire.client.state).toEqual({ state: 'closed', error: null });
    expect(wire.free.closedWith?.code).toBe(1000);
  });
});
