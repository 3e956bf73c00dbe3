import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ConfigError, formatBytes } from '../../src/config-values.ts';
import { describeConfig, loadConfig } from '../../src/config.ts';
import { helpText } from '../../src/help.ts';
import { BUILT_IN_EMBEDDING_MODEL, BUILT_IN_MODEL, flagOf, settings } from '../../src/settings.ts';
import { parseOpenFilesLimit, readMachine, type Machine } from '../../src/machine.ts';

const machine: Machine = { cores: 8, memoryBytes: 16 * 2 ** 30, fileDescriptors: 20_000 };
const load = (args: string[] = [], env: Record<string, string> = {}, on: Machine = machine) =>
  loadConfig(args, env, on);

describe('config', () => {
  it('has the documented defaults', () => {
    expect(load()).toMatchObject({
      port: 8080,
      host: '127.0.0.1',
      models: [BUILT_IN_MODEL],
      embeddingModel: BUILT_IN_EMBEDDING_MODEL,
      workers: 2,
      threads: 4,
      slots: 64,
      maxContext: null,
      kvType: 'auto',
      products: 'auto',
      kvMemoryBytes: 2 ** 31,
      apiKeys: [],
      allowOpen: false,
      allowedOrigins: [],
      maxConnections: 19_500,
      logLevel: 'info',
      drainTimeoutMs: 25_000,
      supervise: true,
    });
    expect(load().cacheDir).toMatch(/tokenwire$/);
    expect(load().hubEndpoint).toBe('https://huggingface.co');
    expect(load([], { CACHE_DIR: '/c' }).modelsDir).toBe(join('/c', 'hub'));
  });

  it('reads the usual names of hub settings too, but its own first', () => {
    const usual = { HF_ENDPOINT: 'https://mirror.example/hf/', HF_TOKEN: 'hf_x' };
    expect(load([], usual)).toMatchObject({ hubEndpoint: 'https://mirror.example/hf', hubToken: 'hf_x' });
    const both = { ...usual, HUB_ENDPOINT: 'http://h', HUB_TOKEN: 'own' };
    expect(load([], both)).toMatchObject({ hubEndpoint: 'http://h', hubToken: 'own' });
    expect(load([], { ...usual, HUB_TOKEN: '' }).hubToken).toBe('hf_x');
  });

  it.each(['huggingface.co', 'ftp://h', 'https://user:pw@h', 'https://h?x=1', 'https://h#x', 'x'])(
    'refuses %s for a hub',
    (value) => expect(() => load([], { HUB_ENDPOINT: value })).toThrow('HUB_ENDPOINT must be an address like'),
  );

  it('takes one worker on one core, and a quarter of a small memory', () => {
    const small = load([], {}, { cores: 1, memoryBytes: 2 ** 30, fileDescriptors: 300 });
    expect(small).toMatchObject({ workers: 1, threads: 1, kvMemoryBytes: 2 ** 28, maxConnections: 64 });
  });

  it('gives each worker its share of the cores', () => {
    expect(load(['--workers', '3']).threads).toBe(2);
    expect(load(['--workers', '16']).threads).toBe(1);
    expect(load(['--workers', '3', '--threads', '5']).threads).toBe(5);
  });

  it('reads both flag forms and the environment, and lets the flag win', () => {
    expect(load(['--port', '0']).port).toBe(0);
    expect(load(['--port=81']).port).toBe(81);
    expect(load([], { PORT: '82' }).port).toBe(82);
    expect(load(['--port=81'], { PORT: '82' }).port).toBe(81);
    expect(load([], { PORT: '' }).port).toBe(8080);
  });

  it('lets switches stand alone or with a value', () => {
    expect(load(['--allow-open']).allowOpen).toBe(true);
    expect(load(['--allow-open', '--port', '1']).allowOpen).toBe(true);
    expect(load(['--supervise', '0']).supervise).toBe(false);
    expect(load([], { SUPERVISE: 'false' }).supervise).toBe(false);
  });

  it('understands sizes, times, lists and keys', () => {
    expect(load([], { KV_MEMORY: '512M' }).kvMemoryBytes).toBe(2 ** 29);
    expect(load([], { KV_MEMORY: '1.5GiB' }).kvMemoryBytes).toBe(1.5 * 2 ** 30);
    expect(load([], { DRAIN_TIMEOUT: '500ms' }).drainTimeoutMs).toBe(500);
    expect(load([], { DRAIN_TIMEOUT: '0' }).drainTimeoutMs).toBe(0);
    expect(load([], { EMBEDDING_MODEL: 'Off' }).embeddingModel).toBeNull();
    expect(load(['--embedding-model', './e']).embeddingModel).toBe('./e');
    expect(load([], { MODEL: 'a, b' }).models).toEqual(['a', 'b']);
    expect(load([], { ALLOWED_ORIGINS: 'https://A.example,*' }).allowedOrigins).toEqual(['https://a.example', '*']);
    expect(load([], { API_KEY: 'k1,team:k2' }).apiKeys).toEqual([
      { tenant: 'local', key: 'k1' },
      { tenant: 'team', key: 'k2' },
    ]);
    expect([...load([], { TENANT_WEIGHTS: 'a=4, b=0.5' }).tenantWeights]).toEqual([
      ['a', 4],
      ['b', 0.5],
    ]);
    expect(formatBytes(2 ** 29)).toBe('512M');
    expect(formatBytes(1000)).toBe('1000');
  });

  it.each<[title: string, args: string[], env: Record<string, string>, message: RegExp]>([
    ['a port that is no number', ['--port', 'abc'], {}, /^PORT must be a whole number from 0 to 65535, got "abc"$/],
    ['a port out of range', [], { PORT: '70000' }, /^PORT must/],
    ['a negative port', ['--port=-1'], {}, /^PORT must/],
    ['a port with a fraction', [], { PORT: '1.5' }, /^PORT must/],
    ['a host that is no address', [], { HOST: '127.0.0.999' }, /^HOST must be an address or a host name/],
    ['a host with blanks', [], { HOST: 'a b' }, /^HOST must/],
    ['an empty model list', [], { MODEL: ',' }, /^MODEL must name at least one model/],
    ['a repeated model', [], { MODEL: 'a,a' }, /^MODEL names the same model twice/],
    ['no workers', [], { WORKERS: '0' }, /^WORKERS must/],
    ['no threads', [], { THREADS: '0' }, /^THREADS must/],
    ['too many slots', [], { SLOTS: '5000' }, /^SLOTS must/],
    ['an unknown form of products', [], { PRODUCTS: 'tiles' }, /^PRODUCTS must be one of auto, blocks, rows/],
    ['an unknown KV type', [], { KV_TYPE: 'int4' }, /^KV_TYPE must be one of auto, float32, int8/],
    ['a tiny context', [], { MAX_CONTEXT: '3' }, /^MAX_CONTEXT must/],
    ['a size without a number', [], { KV_MEMORY: 'lots' }, /^KV_MEMORY must be a size of at least 1M/],
    ['a size too small', [], { KV_MEMORY: '1K' }, /^KV_MEMORY must/],
    ['a switch that is neither on nor off', [], { ALLOW_OPEN: 'maybe' }, /^ALLOW_OPEN must be 0 or 1/],
    ['a weight without a tenant', [], { TENANT_WEIGHTS: '4' }, /^TENANT_WEIGHTS must be a list of TENANT=WEIGHT/],
    ['a weight of nothing', [], { TENANT_WEIGHTS: 'a=0' }, /^TENANT_WEIGHTS must/],
    ['a weight beyond all others', [], { TENANT_WEIGHTS: 'a=101' }, /^TENANT_WEIGHTS must/],
    ['two weights of a tenant', [], { TENANT_WEIGHTS: 'a=1,a=2' }, /^TENANT_WEIGHTS names the same tenant twice/],
    ['a queue for nobody', [], { QUEUE: '0' }, /^QUEUE must/],
    ['a tenant without a place to wait', [], { TENANT_QUEUE: '0' }, /^TENANT_QUEUE must/],
    ['a queue timeout that is no number', [], { QUEUE_TIMEOUT: 'long' }, /^QUEUE_TIMEOUT must/],
    ['an origin with a path', [], { ALLOWED_ORIGINS: 'https://a.example/x' }, /^ALLOWED_ORIGINS must/],
    ['an origin without scheme', [], { ALLOWED_ORIGINS: 'a.example' }, /^ALLOWED_ORIGINS must/],
    ['no connections', [], { MAX_CONNECTIONS: '0' }, /^MAX_CONNECTIONS must/],
    ['an unknown log level', [], { LOG_LEVEL: 'loud' }, /^LOG_LEVEL must be one of fatal/],
    ['a drain time that is no number', [], { DRAIN_TIMEOUT: 'soon' }, /^DRAIN_TIMEOUT must/],
    ['a wrong SUPERVISE', [], { SUPERVISE: '2' }, /^SUPERVISE must be 0 or 1/],
    ['a certificate without key', [], { TLS_CERT: 'a.pem' }, /^TLS_CERT is set but TLS_KEY is not$/],
    ['a key without certificate', [], { TLS_KEY: 'a.pem' }, /^TLS_KEY is set but TLS_CERT is not$/],
    ['an unreadable certificate', [], { TLS_CERT: '/nowhere/a.pem', TLS_KEY: '/nowhere/b.pem' }, /^TLS_CERT cannot be/],
    ['a public host without keys', ['--host', '0.0.0.0'], {}, /^HOST 0\.0\.0\.0 can be reached by others/],
    ['an unknown flag', ['--prot', '1'], {}, /^unknown argument --prot; --help lists all settings$/],
    ['a stray word', ['8080'], {}, /^unknown argument 8080/],
    ['a flag without value', ['--port'], {}, /^--port needs a value$/],
    ['a flag with an empty value', ['--port='], {}, /^--port needs a value$/],
  ])('refuses %s with one line', (_title, args, env, message) => {
    expect(() => load(args, env)).toThrow(ConfigError);
    expect(() => load(args, env)).toThrow(message);
    try {
      load(args, env);
    } catch (error) {
      expect((error as Error).message).not.toContain('\n');
    }
  });

  it('leaves half of the queue to others where there are several tenants', () => {
    expect(load([]).tenantQueueSize).toBe(1024);
    expect(load([], { API_KEY: 'k1,k2', QUEUE: '100' }).tenantQueueSize).toBe(100);
    expect(load([], { API_KEY: 'a:k1,b:k2', QUEUE: '100' }).tenantQueueSize).toBe(50);
    expect(load([], { API_KEY: 'a:k1,b:k2', TENANT_QUEUE: '7' }).tenantQueueSize).toBe(7);
  });

  it('never repeats a key in a message', () => {
    expect(() => load([], { API_KEY: 'team one:secret-1' })).toThrow(/^API_KEY must/);
    for (const value of ['team one:secret-1', 'a:', 'secret-1 with blank']) {
      expect(() => load([], { API_KEY: value })).toThrow(/^(?!.*secret-1)/);
    }
  });

  it('refuses a certificate that is not one', () => {
    const dir = mkdtempSync(join(tmpdir(), 'tokenwire-config-'));
    try {
      const path = join(dir, 'x.pem');
      writeFileSync(path, 'not a certificate');
      expect(() => load([], { TLS_CERT: path, TLS_KEY: path })).toThrow(/^TLS_CERT and TLS_KEY do not work together/);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  it('lets a public host start with keys, or when told that open is meant', () => {
    expect(load([], { HOST: '0.0.0.0', API_KEY: 'k' }).host).toBe('0.0.0.0');
    expect(load(['--host', '::', '--allow-open']).host).toBe('::');
    for (const host of ['localhost', '127.8.8.8', '::1', '[::1]']) expect(() => load([], { HOST: host })).not.toThrow();
  });

  it('explains every setting in --help and describes the choice without keys', () => {
    const help = helpText();
    for (const setting of Object.values(settings)) {
      expect(help).toContain(setting.name);
      expect(help).toContain(flagOf(setting));
      expect(help.replaceAll(/\n +/g, ' ')).toContain(setting.meaning);
    }
    const tooLong = help.split('\n').filter((line) => line.length > 100);
    expect(tooLong).toEqual([]);
    expect(describeConfig(load([], { API_KEY: 'very-secret' }))).not.toContain('very-secret');
  });
});

describe('machine', () => {
  it('reads the soft limit of open files', () => {
    expect(
      parseOpenFilesLimit('Limit\nMax open files            1024                 4096                 files\n'),
    ).toBe(1024);
    expect(parseOpenFilesLimit('Max open files            unlimited            unlimited            files')).toBe(
      65_536,
    );
    expect(parseOpenFilesLimit('nothing')).toBeNull();
  });

  it('finds sensible values on this machine', () => {
    const found = readMachine();
    expect(found.cores).toBeGreaterThan(0);
    expect(found.memoryBytes).toBeGreaterThan(2 ** 26);
    expect(found.fileDescriptors).toBeGreaterThan(0);
  });
});
