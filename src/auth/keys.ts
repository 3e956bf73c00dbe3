// API keys → Caller. Keys are held as SHA-256 digests and compared in constant time, all of them on every attempt,
// so that neither a prefix nor the position of a key can be measured.
import { createHash, timingSafeEqual } from 'node:crypto';
import { ServiceError } from '../../protocol/errors.ts';
import { ADMIN_SCOPE, localCaller, localOperator, type Caller } from './caller.ts';

export interface ApiKey {
  tenant: string;
  key: string;
}

interface KnownKey {
  digest: Buffer;
  caller: Caller;
}

/** Longest key; a longer token is not worth hashing. */
const MAX_KEY_CHARS = 1024;

function digestOf(key: string): Buffer {
  return createHash('sha256').update(key).digest();
}

/** Who may call. Made once at start from the configured keys. */
export class KeyRing {
  readonly #known: KnownKey[];
  /** Who calls without a key; null: nobody may. */
  readonly #keyless: Caller | null;

  /** Without `keys` everybody may chat; and everybody on this machine is an operator, unless there are `adminKeys`. */
  constructor(keys: readonly ApiKey[], adminKeys: readonly ApiKey[] = [], isLoopback = false) {
    this.#known = [
      ...keys.map((key) => knownKey(key, ['chat'])),
      ...adminKeys.map((key) => knownKey(key, ['chat', ADMIN_SCOPE])),
    ];
    const isEverybody = isLoopback && adminKeys.length === 0;
    this.#keyless = keys.length > 0 ? null : isEverybody ? localOperator : localCaller;
  }

  /** True without keys for chatting. */
  get isOpen(): boolean {
    return this.#keyless !== null;
  }

  /** The caller of a key; null or '' is no key. Throws ServiceError `unauthorized`. */
  callerOfToken(token: string | null): Caller {
    if (this.#keyless && !this.#isToken(token)) return this.#keyless;
    if (token === null || token === '') throw new ServiceError('unauthorized', 'An API key is needed.');
    let caller: Caller | null = null;
    if (token.length <= MAX_KEY_CHARS) {
      const digest = digestOf(token);
      for (const known of this.#known) {
        if (timingSafeEqual(known.digest, digest)) caller = known.caller;
      }
    }
    if (!caller && this.#keyless) return this.#keyless;
    if (!caller) throw new ServiceError('unauthorized', 'This API key is not known here.');
    return caller;
  }

  /** The caller of an Authorization header ('' = absent). Throws ServiceError `unauthorized`. */
  callerOfHeader(authorization: string): Caller {
    if (this.#keyless && !this.#isToken(authorization)) return this.#keyless;
    if (authorization === '') {
      throw new ServiceError('unauthorized', 'An API key is needed: send "Authorization: Bearer KEY".');
    }
    const match = /^bearer +(\S+)\s*$/i.exec(authorization);
    if (!match && this.#keyless) return this.#keyless;
    if (!match) throw new ServiceError('unauthorized', 'The Authorization header must be "Bearer KEY".');
    return this.callerOfToken(match[1]!);
  }

  /** Throws ServiceError `not_allowed` unless the caller may load and unload models; and what callerOfHeader throws. */
  operatorOfHeader(authorization: string): Caller {
    const caller = this.callerOfHeader(authorization);
    if (caller.scopes.includes(ADMIN_SCOPE)) return caller;
    throw new ServiceError('not_allowed', 'This needs a key with the scope admin: one of ADMIN_KEY.');
  }

  /** Where chatting needs no key, what came along matters only if there are keys at all. */
  #isToken(text: string | null): boolean {
    return this.#known.length > 0 && text !== null && text !== '';
  }
}

function knownKey({ tenant, key }: ApiKey, scopes: readonly string[]): KnownKey {
  const digest = digestOf(key);
  return { digest, caller: { tenant, keyId: digest.toString('hex').slice(0, 12), scopes, class: 'chat' } };
}
