// What a bench is, and the list of them. run.ts picks one by name and loads only that.
import type { Flags, FlagSpecs } from './flags.ts';
import type { Report } from './report.ts';

export interface Bench {
  /** Its own flags, besides the common ones. */
  flags: FlagSpecs;
  run(flags: Flags, report: Report): Promise<void>;
}

export interface BenchEntry {
  /** The question it answers, one line. */
  question: string;
  load(): Promise<{ bench: Bench }>;
}

export const benches: Readonly<Record<string, BenchEntry>> = {
  codec: {
    question: 'what do encoding and decoding a frame cost, and how many bytes is a delta?',
    load: () => import('./codec.ts'),
  },
  decode: {
    question: 'how fast is the bare decode loop on real weights, without any server?',
    load: () => import('./decode.ts'),
  },
  chunks: {
    question: 'what does a chunk of a prompt cost by the tokens before it, with float32 and 8-bit KV memory?',
    load: () => import('./chunks.ts'),
  },
  serve: {
    question: 'how much of the bare loop arrives through the native socket and through SSE, and how evenly?',
    load: () => import('./serve.ts'),
  },
  stall: {
    question: 'what do running streams feel of a long prompt, and how fast does a cancel act?',
    load: () => import('./stall.ts'),
  },
  burst: {
    question:
      'what do running streams feel of a 1 MB prompt, of 50 new sessions, of another lane and of a model loading?',
    load: () => import('./burst.ts'),
  },
  beside: {
    question: 'what do running streams feel of hostile schemas and of embeddings, and how do others fare meanwhile?',
    load: () => import('./beside.ts'),
  },
  fair: {
    question: 'at twice the capacity: what does each tenant get, how long does each class wait, how late is voice?',
    load: () => import('./fair.ts'),
  },
  turns: {
    question: 'what does a later turn cost beside its new tokens alone, and is a shared system prompt computed once?',
    load: () => import('./turns.ts'),
  },
  solo: {
    question: 'what do few streams gain from decoding on all cores, alone and beside a busy process?',
    load: () => import('./solo.ts'),
  },
  speculate: {
    question: 'what does guessing tokens ahead gain for one answer at a time, on copies and on chat?',
    load: () => import('./speculate.ts'),
  },
  peers: {
    question:
      'how fast are we beside node-llama-cpp, transformers.js and any other server, through one load generator?',
    load: () => import('./peers.ts'),
  },
  embed: {
    question: 'how many texts become vectors per second, also beside transformers.js on the same weights?',
    load: () => import('./embed.ts'),
  },
  families: {
    question: 'does every family compute what node-llama-cpp computes, on one tiny checkpoint each?',
    load: () => import('./families.ts'),
  },
  delay: {
    question: 'how long does a sampled token wait until it is written to its socket, per latency class?',
    load: () => import('./delay.ts'),
  },
  sockets: {
    question: 'what does an idle connection cost, and how do 1,000 streaming connections fare?',
    load: () => import('./sockets.ts'),
  },
  storm: {
    question: 'how soon are 10,000 clients back that all lost their connection, a tenth of them in an answer?',
    load: () => import('./storm.ts'),
  },
  long: {
    question: 'do running streams, memory and cancels hold beside a prompt as long as a 16k context?',
    load: () => import('./long.ts'),
  },
  stalled: {
    question: 'what do 1,000 clients that stop reading cost in memory, and what do others notice?',
    load: () => import('./stalled.ts'),
  },
  soak: {
    question: 'does an hour of everything at once leave memory flat, nothing behind and no error without a name?',
    load: () => import('./soak.ts'),
  },
  http: {
    question: 'how many plain HTTP requests per second, and how late are they?',
    load: () => import('./http.ts'),
  },
  start: {
    question: 'how long from the command to ready, with a warm and with an empty cache?',
    load: () => import('./start.ts'),
  },
  mask: {
    question: 'what does a grammar cost per token, and once, with vocabularies of 6,400 and 150,000?',
    load: () => import('./mask.ts'),
  },
  vocabulary: {
    question: 'what does sampling cost with a vocabulary of 151,936, with and without the graph’s selection?',
    load: () => import('./vocabulary.ts'),
  },
  memory: {
    question: 'how much memory does a second worker add on a model of a billion parameters?',
    load: () => import('./memory.ts'),
  },
};
