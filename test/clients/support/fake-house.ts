// A scripted server and SDK clients for one test, all gone after it. Importing this file is what cleans up.
import { afterEach } from 'vitest';
import { connect } from '../../../clients/index.ts';
import type { Client, ConnectOptions } from '../../../clients/index.ts';
import { FakeServer } from './fake-server.ts';
import type { FakeServerOptions } from './fake-server.ts';

const servers: FakeServer[] = [];
const clients: Client[] = [];

afterEach(async () => {
  for (const client of clients.splice(0)) client.close();
  for (const server of servers.splice(0)) await server.stop();
});

export async function serve(options: FakeServerOptions = {}): Promise<FakeServer> {
  const server = await FakeServer.start(options);
  servers.push(server);
  return server;
}

/** A client that comes back at once. */
export function open(server: Pick<FakeServer, 'url'>, options: ConnectOptions = {}): Client {
  const client = connect(server.url, { retryFirstMs: 5, retryMaxMs: 20, ...options });
  clients.push(client);
  return client;
}
