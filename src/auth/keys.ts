// API keys → Caller. Keys are held as SHA-256 digests and compared in constant time, all of them on every attempt,
// so that neither a prefix nor the position of a key can be measured.
import { createHash, timingSafeEqual } from 'node:crypto';
import { ServiceError } from '../../protocol/errors.ts';
import { localCaller, type Caller } from './caller.ts';

export interface ApiKey {
  tenant: string;
  key: string;
}

interface KnownKey {
  digest: Buffer;
  caller: Caller;
}

/** Longest token worth hashing; a longer one cannot be a key of ours. */
const MAX_TOKEN_CHARS = 1024;

function digestOf(key: string): Buffer {
  return createHash('sha256').update(key).digest();
}

/** Who may call. Made once at start from the configured keys. */
export class KeyRing {
  readonly #known: KnownKey[];

  constructor(keys: readonly ApiKey[]) {
    this.#known = keys.map(({ tenant, key }) => {
      const digest = digestOf(key);
      const keyId = digest.toString('hex').slice(0, 12);
      return { digest, caller: { tenant, keyId, scopes: ['chat'], class: 'chat' } };
    });
  }

  /** True without configured keys: everybody is `localCaller`. */
  get isOpen(): boolean {
    return this.#known.length === 0;
  }

  /** The caller of a key; null or '' is no key. Throws ServiceError `unauthorized`. */
  callerOfToken(token: string | null): Caller {
    if (this.isOpen) return localCaller;
    if (token === null || token === '') throw new ServiceError('unauthorized', 'An API key is needed.');
    const digest = digestOf(token.slice(0, MAX_TOKEN_CHARS));
    let caller: Caller | null = null;
    for (const known of this.#known) {
      if (timingSafeEqual(known.digest, digest)) caller = known.caller;
    }
    if (!caller) throw new ServiceError('unauthorized', 'This API key is not known here.');
    return caller;
  }

  /** The caller of an Authorization header ('' = absent). Throws ServiceError `unauthorized`. */
  callerOfHeader(authorization: string): Caller {
    if (this.isOpen) return localCaller;
    if (authorization === '') {
      throw new ServiceError('unauthorized', 'An API key is needed: send "Authorization: Bearer KEY".');
    }
    const match = /^bearer +(\S+)\s*$/i.exec(authorization);
    if (!match) throw new ServiceError('unauthorized', 'The Authorization header must be "Bearer KEY".');
    return this.callerOfToken(match[1]!);
  }
}
