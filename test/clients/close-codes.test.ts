// After which ends of a connection the client comes back, code by code, as protocol/README.md §7 says it.
import { afterEach, describe, expect, it } from 'vitest';
import { CloseCode } from '../../protocol/constants.ts';
import { errorTable } from '../../protocol/errors.ts';
import type { ErrorCode } from '../../protocol/errors.ts';
import { Op } from '../../protocol/messages.ts';
import { until } from './support/until.ts';
import { Wire } from './support/wire.ts';

const wires: Wire[] = [];
afterEach(() => {
  for (const { client } of wires.splice(0)) client.close();
});

function open(options = {}): Wire {
  const wire = new Wire(options);
  wires.push(wire);
  wire.free.welcome();
  return wire;
}

describe('The client', () => {
  it.each([
    [1000, 'by the server, unasked'],
    [1001, 'going away'],
    [1006, 'the network'],
    [CloseCode.internal, 'the server failed'],
    [CloseCode.restart, 'restart without a goaway'],
    [CloseCode.overloaded, 'too many connections'],
    [3000, 'a proxy of its own mind'],
    [CloseCode.slowConsumer, 'slow consumer'],
    [4999, 'a code of a later version'],
  ])('comes back after %i (%s)', async (code) => {
    const wire = open();
    wire.free.events?.onClose(code, '');
    expect(wire.client.state).toMatchObject({ state: 'waiting' });
    await until(() => wire.free.numOpened === 2);
    wire.free.welcome();
    expect(wire.client.state.state).toBe('open');
  });

  it.each([CloseCode.unsupportedData, CloseCode.invalidFrame, CloseCode.policy])(
    'stays away after %i, open or not yet',
    async (code) => {
      const wire = open();
      const waiting = wire.client.create({ messages: [{ role: 'user', content: 'x' }] });
      wire.free.events?.onClose(code, 'why');
      expect(wire.client.state).toMatchObject({ state: 'closed', error: { code: 'not_allowed', message: 'why' } });
      await expect(waiting.finished).rejects.toThrow('why');
      expect(wire.free.numOpened).toBe(1);
      const early = new Wire();
      early.free.events?.onClose(code, '');
      expect(early.client.state).toMatchObject({ state: 'closed', error: { code: 'not_allowed' } });
      expect(early.free.numOpened).toBe(1);
    },
  );

  const fatal = Object.entries(errorTable).filter(([, row]) => row.scope === 'connection' && !row.retryable);
  it.each(fatal.map(([code]) => code as ErrorCode))('stays away after %s and says so', (code) => {
    const wire = open();
    wire.receive([Op.Error, 0, null, { code, message: 'No.', retryable: false }]);
    // Over when the close comes, not before.
    expect(wire.client.state.state).toBe('open');
    wire.free.events?.onClose((errorTable[code] as { close?: number }).close!, code);
    expect(wire.client.state).toMatchObject({ state: 'closed', error: { code, message: 'No.' } });
    expect(wire.free.numOpened).toBe(1);
  });

  it('comes back 1,000 ms after the close when a goaway said so, and adds nothing to it', () => {
    const wire = open();
    wire.receive([Op.Goaway, 0, 'shutting_down', 1000]);
    wire.free.events?.onClose(CloseCode.restart, 'restart');
    expect(wire.client.state).toMatchObject({ state: 'waiting', retryInMs: 1000 });
  });

  it('comes back no sooner than a refusal with a time allows', () => {
    const wire = new Wire();
    wires.push(wire);
    const busy = { code: 'too_many_connections', message: 'Full.', retryable: true, retryAfterMs: 2000 };
    wire.free.events?.onOpen();
    wire.receive([Op.Error, 0, null, busy]);
    wire.free.events?.onClose(CloseCode.overloaded, 'too_many_connections');
    expect(wire.client.state.state).toBe('waiting');
    const { state } = wire.client;
    expect(state.state === 'waiting' && state.retryInMs).toBeGreaterThanOrEqual(2000);
  });

  it('pauses at random below a ceiling that doubles, and starts over once it was welcomed', async () => {
    const wire = open({ retryFirstMs: 4, retryMaxMs: 16 });
    for (const ceiling of [4, 8, 16, 16]) {
      const before = wire.free.numOpened;
      wire.lose();
      const { state } = wire.client;
      if (state.state !== 'waiting') throw new Error(state.state);
      expect(state.retryInMs).toBeLessThanOrEqual(ceiling);
      await until(() => wire.free.numOpened === before + 1);
    }
    wire.free.welcome();
    wire.lose();
    const { state } = wire.client;
    expect(state.state === 'waiting' && state.retryInMs).toBeLessThanOrEqual(4);
  });
});
