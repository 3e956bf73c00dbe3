// Clients of the real server hear of models that its operator loads and unloads.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connect } from '../../clients/index.ts';
import type { Client } from '../../clients/index.ts';
import { RealServer } from './support/real-server.ts';

let server: RealServer;
const clients: Client[] = [];

beforeAll(async () => {
  server = await RealServer.start({ MODEL: 'fake:stepMs=1', EMBEDDING_MODEL: 'off', WORKERS: '1' });
});

afterAll(async () => {
  for (const client of clients) client.close();
  await server.stop();
});

async function admin(path: string, body: object): Promise<void> {
  const answer = await fetch(`${server.url}/v1/admin/models/${path}`, { method: 'POST', body: JSON.stringify(body) });
  expect(answer.status, await answer.text()).toBe(200);
}

/** Names that each model answers to, the default first. */
const names = (client: Client): string[] => client.models.map(({ id, aliases }) => [id, ...aliases].join(' '));

describe('Clients', () => {
  it('follow models that are loaded and unloaded, and go on with what they have', async () => {
    const told: string[][] = [];
    for (let count = 0; count < 2; count++) clients.push(connect(server.url));
    const [client, other] = clients as [Client, Client];
    const stop = client.onModels((models) => told.push(models.map(({ id }) => id)));
    await Promise.all([client.ready(), other.ready()]);
    expect(names(client)).toEqual(['fake default']);
    const session = client.session();
    await session.send('one').finished;

    await admin('load', { model: 'fake:stepMs=1', id: 'second', aliases: ['two'] });
    for (const each of clients) await expect.poll(() => names(each)).toEqual(['fake default', 'second two']);
    expect((await client.session({ model: 'two' }).send('hello').finished).reason).toBe('stop');

    await admin('load', { model: 'fake:stepMs=1', id: 'third', default: true });
    for (const each of clients) {
      await expect.poll(() => names(each)).toEqual(['third default', 'fake', 'second two']);
    }
    await session.send('three').finished;
    expect(session.info?.model).toBe('fake');

    await admin('unload', { model: 'fake' });
    for (const each of clients) await expect.poll(() => names(each)).toEqual(['third default', 'second two']);
    await expect(session.send('four').finished).rejects.toMatchObject({ code: 'unknown_model' });
    expect(session.messages.length).toBe(4);

    stop();
    await admin('unload', { model: 'second' });
    await expect.poll(() => names(other)).toEqual(['third default']);
    expect([told[0], told.at(-1)]).toEqual([['fake'], ['third', 'second']]);
  });
});
