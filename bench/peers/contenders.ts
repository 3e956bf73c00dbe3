// Who is measured: our server and every peer that could be installed and started, each behind the same HTTP interface.
// A peer that fails is named with its reason and left out; the bench goes on with the others.
import fs from 'node:fs';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { findModelDirectory, modelId } from '../../workers/model/model-directory.ts';
import { UsageError } from '../flags.ts';
import { ServerProcess } from '../server-process.ts';
import { exportGguf, type WeightEncoding } from './gguf-export.ts';
import { installPeer, nodeLlamaCpp, transformersJs } from './install.ts';
import { PeerProcess } from './peer-process.ts';

export const OURS = 'tokenwire';

export interface Contender {
  name: string;
  /** Without /v1. */
  url: string;
  /** As the server calls it, for requests; absent where it is not asked for. */
  model?: string;
  /** Answers run side by side; else one after the other. */
  isConcurrent: boolean;
  stop(): Promise<void>;
}

export interface LineUp {
  model: string;
  cacheDir: string;
  /** Of installed libraries and exported weights. */
  dir: string;
  peers: readonly string[];
  urls: readonly string[];
  weights: WeightEncoding;
  /** Streams at once that every contender has to take. */
  streams: number;
  say: (line: string) => void;
}

type Starter = (lineUp: LineUp) => Promise<PeerProcess>;

/** On `threads` threads, with the weights exported anew: the model may have changed since the last time. */
function llamaOn(threads: number): Starter {
  return async ({ model, dir, weights, streams, say }) => {
    const entry = await installPeer(path.join(dir, 'node-llama-cpp'), nodeLlamaCpp);
    const directory = findModelDirectory(model);
    const gguf = path.join(dir, `${modelId(directory)}-${weights}.gguf`);
    exportGguf(model, gguf, weights);
    say(`weights as GGUF: ${gguf}`);
    // One more than streams: the stall test's newcomer must not wait for a seat.
    const config = path.join(directory, 'tokenizer_config.json');
    return PeerProcess.start('node-llama-cpp.ts', [entry, gguf, config, String(streams + 1), String(threads)]);
  };
}

/**
 * The installable peers by name. llama.cpp's threads wait for each other by spinning, which collapses beside a busy
 * neighbour, so the same peer also runs with one thread.
 */
const starters: Readonly<Record<string, { isConcurrent: boolean; start: Starter }>> = {
  'node-llama-cpp': { isConcurrent: true, start: llamaOn(availableParallelism()) },
  'node-llama-cpp-1-thread': { isConcurrent: true, start: llamaOn(1) },
  'transformers.js': {
    isConcurrent: false,
    async start({ model, dir }) {
      const entry = await installPeer(path.join(dir, 'transformers-js'), transformersJs);
      return PeerProcess.start('transformers-js.ts', [entry, findModelDirectory(model)]);
    },
  },
};

export const peerNames = Object.keys(starters);

/** Starts all, ours first. Throws for wrong names and addresses and when our own server does not start. */
export async function startContenders(lineUp: LineUp): Promise<Contender[]> {
  const unknown = lineUp.peers.find((name) => !Object.hasOwn(starters, name));
  if (unknown !== undefined) throw new UsageError(`no peer "${unknown}"; there are ${peerNames.join(', ')}`);
  const urls = lineUp.urls.map(parseUrl);
  fs.mkdirSync(lineUp.dir, { recursive: true });
  const { cacheDir, model, say } = lineUp;
  const server = await ServerProcess.start({ cacheDir, settings: { MODEL: model } });
  const contenders: Contender[] = [{ name: OURS, url: server.url, isConcurrent: true, stop: () => server.stop() }];
  const attempt = async (name: string, start: () => Promise<Contender>): Promise<void> => {
    try {
      say(`${name}: starting (the first time installs it)`);
      contenders.push(await start());
    } catch (error) {
      say(`${name}: left out, ${error instanceof Error ? error.message : String(error)}`);
    }
  };
  for (const name of lineUp.peers) {
    const { isConcurrent, start } = starters[name]!;
    await attempt(name, async () => {
      const peer = await start(lineUp);
      return { name, url: peer.url, isConcurrent, stop: () => peer.stop() };
    });
  }
  for (const { name, url } of urls) {
    await attempt(name, async () => ({
      name,
      url,
      model: await firstModel(url),
      isConcurrent: true,
      // Not started here, so not ended here.
      stop: () => Promise.resolve(),
    }));
  }
  return contenders;
}

/** Reads `NAME=http://host:port`, with or without /v1. */
export function parseUrl(value: string): { name: string; url: string } {
  const match = /^([\w.-]+)=(https?:\/\/.+)$/.exec(value);
  if (match === null || !URL.canParse(match[2]!))
    throw new UsageError(`--url is "${value}", not NAME=http://host:port`);
  const [, name, url] = match as unknown as [string, string, string];
  if (name === OURS || peerNames.includes(name)) throw new UsageError(`--url: the name ${name} is taken`);
  return { name, url: url.replace(/\/+$/, '').replace(/\/v1$/, '') };
}

async function firstModel(url: string): Promise<string> {
  const answer = await fetch(`${url}/v1/models`, { signal: AbortSignal.timeout(10_000) });
  const { data } = (await answer.json()) as { data?: { id?: string }[] };
  const id = data?.[0]?.id;
  if (id === undefined) throw new Error(`${url}/v1/models names no model`);
  return id;
}
