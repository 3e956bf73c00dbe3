// Parsers of single settings: text → value, or a ConfigError that says in one line what was expected.
import { isIP } from 'node:net';
import type { ApiKey } from './auth/keys.ts';

/** A setting is wrong. The message is one line for the person who started the server; exit code 2. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
}

/** Turns the text of a setting into its value; throws Error with what was expected ("must be …"). */
export type Parse<T> = (text: string) => T;

export function integer(min: number, max: number): Parse<number> {
  return (text) => {
    const value = /^-?\d+$/.test(text) ? Number(text) : NaN;
    if (!(value >= min && value <= max)) throw new Error(`must be a whole number from ${min} to ${max}`);
    return value;
  };
}

export function oneOf<T extends string>(...values: readonly T[]): Parse<T> {
  return (text) => {
    const value = values.find((candidate) => candidate === text.toLowerCase());
    if (value === undefined) throw new Error(`must be one of ${values.join(', ')}`);
    return value;
  };
}

export const flag: Parse<boolean> = (text) => {
  if (['1', 'true', 'yes', 'on'].includes(text.toLowerCase())) return true;
  if (['0', 'false', 'no', 'off'].includes(text.toLowerCase())) return false;
  throw new Error('must be 0 or 1');
};

/** Two words of which the first means true. */
export function onOff(on: string, off: string): Parse<boolean> {
  return (text) => oneOf(on, off)(text) === on;
}

const UNITS: Record<string, number> = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

/** Bytes: 1073741824, 512M, 2G, 1.5GiB; units are powers of 1,024. */
export function bytes(min: number): Parse<number> {
  return (text) => {
    const match = /^(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?$/i.exec(text);
    const value = match ? Math.floor(Number(match[1]) * UNITS[match[2]!.toLowerCase()]!) : NaN;
    if (!(value >= min)) throw new Error(`must be a size of at least ${formatBytes(min)}, like 512M or 2G`);
    return value;
  };
}

/** The shortest exact form that `bytes` reads back: 536870912 → 512M. */
export function formatBytes(value: number): string {
  for (const [unit, size] of [['G', 2 ** 30] as const, ['M', 2 ** 20] as const, ['K', 2 ** 10] as const]) {
    if (value >= size && value % size === 0) return `${value / size}${unit}`;
  }
  return String(value);
}

/** Milliseconds out of seconds: 25, 2.5, 25s, 500ms. */
export function seconds(maxSeconds: number): Parse<number> {
  return (text) => {
    const match = /^(\d+(?:\.\d+)?)(s|ms)?$/.exec(text);
    const value = match ? Number(match[1]) * (match[2] === 'ms' ? 1 : 1000) : NaN;
    if (!(value <= maxSeconds * 1000)) throw new Error(`must be a number of seconds from 0 to ${maxSeconds}`);
    return value;
  };
}

export const text: Parse<string> = (value) => value;

/** Printable ASCII, as it must be to stand in a header. */
export const token: Parse<string> = (value) => {
  if (!/^[\x21-\x7e]{1,512}$/.test(value)) throw new Error('must be printable characters without blanks');
  return value;
};

/** An http(s) address without credentials, query or slash at its end. */
export const hubAddress: Parse<string> = (value) => {
  const url = URL.canParse(value) ? new URL(value) : null;
  const isPlain = url !== null && url.username === '' && url.password === '' && url.search === '' && url.hash === '';
  if (!isPlain || !/^https?:$/.test(url.protocol)) throw new Error('must be an address like https://huggingface.co');
  return url.href.replace(/\/+$/, '');
};

export const host: Parse<string> = (value) => {
  const bare = value.replace(/^\[(.*)\]$/, '$1');
  // Digits and dots alone are meant as an address, so 127.0.0.999 must not pass as a name.
  const isName = /^(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*\.?$/i.test(bare);
  if (isIP(bare) === 0 && (!isName || /^[\d.]+$/.test(bare))) throw new Error('must be an address or a host name');
  return bare;
};

export function list(value: string): string[] {
  return value
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '');
}

export const names: Parse<string[]> = (value) => {
  const items = list(value);
  if (items.length === 0) throw new Error('must name at least one model');
  if (new Set(items).size !== items.length) throw new Error('names the same model twice');
  return items;
};

export const origins: Parse<string[]> = (value) =>
  list(value).map((item) => {
    if (item === '*') return item;
    if (!/^[a-z][a-z0-9+.-]*:\/\/[^/\s?#]+$/i.test(item)) {
      throw new Error('must be a list of origins like https://chat.example.org (scheme and host, no path), or *');
    }
    return item.toLowerCase();
  });

export const keys: Parse<ApiKey[]> = (value) =>
  list(value).map((item) => {
    const colon = item.indexOf(':');
    const tenant = colon < 0 ? 'local' : item.slice(0, colon);
    const key = item.slice(colon + 1);
    // The value itself must not reach a log, so the message never repeats it.
    if (!/^[\w-]{1,64}$/.test(tenant))
      throw new Error('must be a list of key or tenant:key (tenant: letters, digits, _ -)');
    if (!/^[\x21-\x7e]{1,512}$/.test(key))
      throw new Error('holds an empty key, one with blanks or one of more than 512 characters');
    return { tenant, key };
  });

const WEIGHT_MIN = 0.01;
const WEIGHT_MAX = 100;

export const weights: Parse<ReadonlyMap<string, number>> = (value) => {
  const found = new Map<string, number>();
  for (const item of list(value)) {
    const match = /^([\w-]{1,64})=(\d+(?:\.\d+)?)$/.exec(item);
    const weight = Number(match?.[2] ?? NaN);
    if (!match || !(weight >= WEIGHT_MIN && weight <= WEIGHT_MAX)) {
      throw new Error(`must be a list of TENANT=WEIGHT with weights from ${WEIGHT_MIN} to ${WEIGHT_MAX}`);
    }
    if (found.has(match[1]!)) throw new Error('names the same tenant twice');
    found.set(match[1]!, weight);
  }
  return found;
};
