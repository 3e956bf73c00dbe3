// protocol/transcript.jsonl: a short conversation over two connections as the server really holds it, byte for byte.
// The server is the real one around a scripted engine; clock and random ids are fixed, so that the bytes are too.
// After a deliberate change write the file anew: vitest run --project unit test/protocol/transcript.test.ts -u
import { expect, it, vi } from 'vitest';
import { encodeCopy } from '../../protocol/codec.ts';
import { Op } from '../../protocol/messages.ts';
import type { ClientMessage, ServerMessage } from '../../protocol/messages.ts';
import { fakeModel } from '../src/support/fake-engine.ts';
import { House, settle } from '../src/support/house.ts';
import type { TestClient } from '../src/support/house.ts';

vi.mock('node:crypto', async (importOriginal) => {
  let count = 0;
  return {
    ...(await importOriginal<object>()),
    // Each id repeats a number of its own.
    randomBytes: (size: number) => Buffer.alloc(size, ++count * 16 + count),
  };
});

const toHex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

it('A conversation with a lost connection and a Resume has the bytes of transcript.jsonl', async () => {
  const models = [fakeModel];
  const house = new House({ socket: { serverName: 'tokenwire/0.1.0', models: () => models } });
  const lines: object[] = [];
  let connection = 0;
  let client!: TestClient;
  /** What the server sent since it was last heard. */
  let sent: string[] = [];
  const heard = (): ServerMessage[] => {
    const frames = client.take();
    for (const [index, message] of frames.entries()) {
      lines.push({ connection, direction: 'server', op: nameOf(message), hex: sent[index], message });
    }
    sent = [];
    return frames;
  };
  const say = (note: string, message: ClientMessage): ServerMessage[] => {
    lines.push({
      connection,
      direction: 'client',
      op: nameOf(message),
      hex: toHex(encodeCopy(message)),
      message,
      note,
    });
    client.push(message);
    return heard();
  };
  const connect = (): void => {
    const connected = house.connect();
    client = connected;
    const { send } = connected;
    connected.send = (bytes) => {
      sent.push(toHex(bytes));
      return send.call(connected, bytes);
    };
    connection++;
  };
  const end = (closedBy: string, code: number, note: string): void => {
    lines.push({ connection, closedBy, code, note });
    client.drop(code);
  };
  const steps = async (count: number): Promise<void> => {
    for (let step = 0; step < count; step++) {
      house.nowMs += 20;
      house.engine.step();
      heard();
    }
    await settle();
    heard();
  };

  connect();
  say('Every Hello of this client names the same instance.', [
    Op.Hello,
    0,
    1,
    { client: 'example/1.0', instance: '3f9a0c7d5e2b4816' },
  ]);
  say('', [Op.OpenLane, 3, { class: 'voice' }]);
  const [opened] = say('', [Op.OpenSession, 0, 'q-5b1e90', { system: 'You are brief.' }]);
  const { session } = (opened as Extract<ServerMessage, { 0: typeof Op.SessionOpened }>)[3];
  house.engine.script = () => ['Yes', ', I', ' do', '.'];
  const [created] = say('requestIds in a session are random: they must never repeat in its life.', [
    Op.Create,
    3,
    'q-c82d41',
    { session, messages: [{ role: 'user', content: 'Do you hear me?' }] },
  ]);
  const [, , , , response, epoch] = created as Extract<ServerMessage, { 0: typeof Op.Created }>;
  await steps(2);
  end('network', 1006, 'Events 3 to 5 are made while nobody is connected.');
  await steps(3);

  connect();
  say('The next three frames may leave at once, without waiting for Welcome.', [
    Op.Hello,
    0,
    1,
    { client: 'example/1.0', instance: '3f9a0c7d5e2b4816' },
  ]);
  say('Lanes do not outlive a connection.', [Op.OpenLane, 3, { class: 'voice' }]);
  say('The last event handled was seq 2.', [Op.Resume, 3, 'q-77a0f3', { response, epoch, lastSeq: 2 }]);
  await settle();
  heard();
  say('Done is acknowledged, whatever else is.', [Op.Ack, 3, 1, 5]);
  house.engine.script = () => ['One', ', two', ', three'];
  say('', [Op.Create, 3, 'q-0e6b9c', { session, messages: [{ role: 'user', content: 'Count.' }], offsets: true }]);
  await steps(2);
  say('Done and Cancelled follow within an engine step.', [Op.Cancel, 3, 2]);
  await steps(1);
  say('', [Op.Ack, 3, 2, 3]);
  // Nobody asked for this one.
  models.push({ ...fakeModel, id: 'another', aliases: [] });
  house.sockets.modelsChanged();
  await vi.waitFor(() => expect(heard()).toHaveLength(1));
  say('', [Op.History, 0, 'q-d4418a', session]);
  end('client', 1000, 'Done: what still ran here would be cancelled.');
  house.stop();

  await expect(lines.map((line) => `${JSON.stringify(line)}\n`).join('')).toMatchFileSnapshot(
    '../../protocol/transcript.jsonl',
  );
});

function nameOf([op]: ClientMessage | ServerMessage): string {
  return Object.entries(Op).find(([, number]) => number === op)![0];
}
