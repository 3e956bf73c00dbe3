// Who reads an answer sets its pace: what is acknowledged, and when.
import { afterEach, describe, expect, it } from 'vitest';
import { Pace } from '../../clients/pace.ts';
import { Op } from '../../protocol/messages.ts';
import type { Delta } from '../../protocol/messages.ts';
import { until } from './support/until.ts';
import { Wire } from './support/wire.ts';

const wires: Wire[] = [];

afterEach(() => {
  for (const wire of wires.splice(0)) wire.client.close();
});

async function running(): Promise<{ wire: Wire; response: ReturnType<Wire['client']['create']> }> {
  const wire = new Wire();
  wires.push(wire);
  wire.free.welcome();
  const response = wire.client.create({ messages: [{ role: 'user', content: 'x' }] });
  await wire.created(1, 1, 'resp');
  return { wire, response };
}

function events(wire: Wire, from: number, to: number): void {
  for (let seq = from; seq <= to; seq++) wire.receive([Op.Deltas, 0, [[1, seq, 'x'] satisfies Delta]]);
}

const lastAck = (wire: Wire): unknown => wire.sent(Op.Ack).at(-1)?.[3];
const moment = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 80));

describe('Pace', () => {
  it('is what has arrived without readers, and the furthest reader with some', () => {
    const told: number[] = [];
    const pace = new Pace((seq) => told.push(seq));
    pace.arrived(5);
    const [slow, fast] = [pace.enter(), pace.enter()];
    pace.arrived(9);
    pace.read(slow, 6);
    pace.read(fast, 8);
    pace.read(slow, 7);
    pace.leave(fast);
    pace.arrived(12);
    pace.leave(slow);
    expect(told).toEqual([5, 6, 8, 12]);
  });
});

describe('Acks of an answer', () => {
  it('follow what arrives while nobody iterates', async () => {
    const { wire } = await running();
    events(wire, 1, 100);
    await until(() => lastAck(wire) === 100);
    // One at 64 events, one for the rest.
    expect(wire.sent(Op.Ack).length).toBe(2);
  });

  it('stop with a loop that stops, and go on with it', async () => {
    const { wire, response } = await running();
    const pieces = response[Symbol.asyncIterator]();
    const first = pieces.next();
    events(wire, 1, 10);
    expect((await first).value).toBe('x'.repeat(10));
    events(wire, 11, 200);
    await moment();
    expect(wire.sent(Op.Ack)).toEqual([]);
    expect((await pieces.next()).value).toBe('x'.repeat(190));
    await until(() => lastAck(wire) === 10);
    const third = pieces.next();
    await until(() => lastAck(wire) === 200);
    events(wire, 201, 201);
    expect((await third).value).toBe('x');
    await moment();
    expect(lastAck(wire)).toBe(200);
    await pieces.return();
    await until(() => lastAck(wire) === 201);
  });

  it('follow a reader of events, tool calls included', async () => {
    const { wire, response } = await running();
    const reader = response.events();
    const first = reader.next();
    wire.receive(
      [Op.Deltas, 0, [[1, 1, 'a']]],
      [Op.ToolBegin, 0, 1, 2, 0, 'call_1', 'weather'],
      [Op.ToolDelta, 0, 1, 3, 0, '{}'],
      [Op.ToolEnd, 0, 1, 4, 0],
    );
    const seen = [(await first).value];
    for (let count = 0; count < 3; count++) seen.push((await reader.next()).value);
    expect(seen).toEqual([
      { type: 'text', seq: 1, text: 'a', offset: 0, sentenceEnds: [] },
      { type: 'toolBegin', seq: 2, index: 0, id: 'call_1', name: 'weather' },
      { type: 'toolDelta', seq: 3, index: 0, text: '{}' },
      { type: 'toolEnd', seq: 4, index: 0, call: { id: 'call_1', name: 'weather', arguments: '{}' } },
    ]);
    await until(() => lastAck(wire) === 3);
    wire.done(1, 5);
    expect((await reader.next()).done).toBe(true);
    // Who begins late gets the past merged.
    const late = [];
    for await (const event of response.events()) late.push(event.type);
    expect(late).toEqual(['text', 'toolBegin', 'toolDelta', 'toolEnd']);
  });

  it('do not wait for a text loop while only a tool call arrives', async () => {
    const { wire, response } = await running();
    const next = response[Symbol.asyncIterator]().next();
    wire.receive([Op.ToolBegin, 0, 1, 1, 0, 'call_1', 'weather']);
    for (let seq = 2; seq <= 300; seq++) wire.receive([Op.ToolDelta, 0, 1, seq, 0, '1']);
    await until(() => lastAck(wire) === 300);
    wire.done(1, 301);
    expect((await next).done).toBe(true);
  });
});
