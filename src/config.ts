// Reads the settings (settings.ts) from flags and environment; flags win. main.ts does it once, the supervisor and the
// command for models too. What is wrong is a ConfigError.
import { readFileSync } from 'node:fs';
import { createSecureContext } from 'node:tls';
import { isLoopback } from './auth/origin.ts';
import { ConfigError, flag, formatBytes } from './config-values.ts';
import { readMachine, type Machine } from './machine.ts';
import { flagOf, settingRows, type Config } from './settings.ts';

/** Texts of the flags by setting name. Throws ConfigError on anything unknown. */
function readFlags(args: readonly string[]): Map<string, string> {
  const found = new Map<string, string>();
  for (let i = 0; i < args.length; i++) {
    const arg = args[i]!;
    const [flagName, inline] = arg.includes('=')
      ? [arg.slice(0, arg.indexOf('=')), arg.slice(arg.indexOf('=') + 1)]
      : [arg];
    const setting = settingRows.find(([, row]) => flagOf(row) === flagName)?.[1];
    if (!setting) throw new ConfigError(`unknown argument ${flagName}; --help lists all settings`);
    const next = args[i + 1];
    const hasNext = next !== undefined && !next.startsWith('--');
    if (inline !== undefined) found.set(setting.name, inline);
    else if (setting.isSwitch && !(hasNext && isFlagValue(next))) found.set(setting.name, '1');
    else if (hasNext) {
      found.set(setting.name, next);
      i++;
    } else throw new ConfigError(`${flagName} needs a value`);
  }
  return found;
}

function isFlagValue(value: string): boolean {
  try {
    flag(value);
    return true;
  } catch {
    return false;
  }
}

/**
 * Reads all settings. An empty variable counts as absent.
 * Throws ConfigError, whose message is the one line to print.
 */
export function loadConfig(...sources: Parameters<typeof readSettings>): Config {
  const config = readSettings(...sources);
  checkTogether(config);
  return config;
}

/** As loadConfig, without the rules over several settings: for commands that open no port. */
export function readSettings(
  args: readonly string[] = process.argv.slice(2),
  env: Readonly<Record<string, string | undefined>> = process.env,
  machine: Machine = readMachine(),
): Config {
  const flags = readFlags(args);
  const config = {} as Config;
  for (const [key, setting] of settingRows) {
    const given = (flags.get(setting.name) ?? (env[setting.name] || env[setting.alsoNamed ?? '']) ?? '').trim();
    if (given === '') {
      if (flags.has(setting.name)) throw new ConfigError(`${flagOf(setting)} needs a value`);
      Object.assign(config, { [key]: setting.fallback(machine, config) });
      continue;
    }
    try {
      Object.assign(config, { [key]: setting.parse(given) });
    } catch (error) {
      const got = setting.isSecret ? '' : `, got ${JSON.stringify(given)}`;
      throw new ConfigError(`${setting.name} ${(error as Error).message}${got}`);
    }
  }
  return config;
}

/** Rules over several settings, and files that must be readable now rather than at the first connection. */
function checkTogether(config: Config): void {
  if (config.tlsCert !== '' && config.tlsKey === '') throw new ConfigError('TLS_CERT is set but TLS_KEY is not');
  if (config.tlsKey !== '' && config.tlsCert === '') throw new ConfigError('TLS_KEY is set but TLS_CERT is not');
  if (config.tlsCert !== '') {
    const cert = readPem('TLS_CERT', config.tlsCert);
    const key = readPem('TLS_KEY', config.tlsKey);
    try {
      createSecureContext({ cert, key });
    } catch (error) {
      throw new ConfigError(`TLS_CERT and TLS_KEY do not work together: ${(error as Error).message}`);
    }
  }
  if (!isLoopback(config.host) && config.apiKeys.length === 0 && !config.allowOpen) {
    throw new ConfigError(
      `HOST ${config.host} can be reached by others: set API_KEY, or ALLOW_OPEN=1 if that is what you want`,
    );
  }
}

function readPem(name: string, path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new ConfigError(`${name} cannot be read: ${(error as Error).message}`);
  }
}

/** One line for the log at start: what was decided, without secrets. */
export function describeConfig(config: Config): string {
  const access = config.apiKeys.length > 0 ? `${config.apiKeys.length} API keys` : 'no API key';
  return [
    `${config.workers} workers x ${config.threads} threads`,
    `${config.slots} slots`,
    `context ${config.maxContext ?? "4096 or the model's"}`,
    `KV memory (${config.kvType}) up to ${formatBytes(Math.floor(config.kvMemoryBytes / 2 ** 20) * 2 ** 20)}`,
    access,
  ].join(', ');
}
