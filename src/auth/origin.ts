// Which web pages may talk to this server. Any page a person opens can reach a loopback socket, so Origin says whose
// page it is, and Host must be a name of ours: otherwise a page could rebind its own DNS name to 127.0.0.1 and count
// as same-origin. Programs other than browsers send no Origin and pass.
import { isIP } from 'node:net';
import { ServiceError } from '../../protocol/errors.ts';

export function isLoopback(host: string): boolean {
  const bare = host.replace(/^\[(.*)\]$/, '$1').toLowerCase();
  return (
    bare === 'localhost' ||
    bare.endsWith('.localhost') ||
    bare === '::1' ||
    (isIP(bare) === 4 && bare.startsWith('127.'))
  );
}

function isWildcard(host: string): boolean {
  return host === '0.0.0.0' || host === '::';
}

/** Name without port and brackets, lower case: `[::1]:80` → `::1`. */
function nameOf(hostHeader: string): string {
  return hostHeader
    .toLowerCase()
    .replace(/:\d*$/, (port) => (isIP(hostHeader) === 6 ? port : ''))
    .replace(/^\[(.*)\]$/, '$1')
    .replace(/\.$/, '');
}

/** `host:port` of an origin, without a port that is its scheme's default; '' for `null` and nonsense. */
function hostOf(origin: string): string {
  try {
    return new URL(origin).host.toLowerCase();
  } catch {
    return '';
  }
}

export interface OriginPolicyOptions {
  /** Address the server listens on. */
  host: string;
  /** Lower case; `*` allows every origin. */
  allowedOrigins: readonly string[];
  hasKeys: boolean;
}

/** Decides over Origin and Host of requests. Stateless after construction. */
export class OriginPolicy {
  readonly #allowed: Set<string>;
  readonly #allowedHosts: Set<string>;
  readonly #host: string;
  readonly #anyHost: boolean;

  constructor({ host, allowedOrigins, hasKeys }: OriginPolicyOptions) {
    this.#allowed = new Set(allowedOrigins);
    this.#allowedHosts = new Set(allowedOrigins.map((origin) => nameOf(hostOf(origin))));
    this.#host = host.toLowerCase();
    // Where every request needs a key and outsiders are expected, the names people gave the machine are not ours to know.
    this.#anyHost = hasKeys && !isLoopback(host);
  }

  isHostAllowed(hostHeader: string): boolean {
    if (this.#anyHost) return true;
    const name = nameOf(hostHeader);
    if (name === '') return false;
    if (isLoopback(name) || name === this.#host || this.#allowedHosts.has(name)) return true;
    // An address cannot be rebound; which of the machine's addresses was used does not matter.
    return isWildcard(this.#host) && isIP(name) !== 0;
  }

  /** origin '' = no header. */
  isOriginAllowed(origin: string, hostHeader: string): boolean {
    if (origin === '' || this.#allowed.has('*') || this.#allowed.has(origin.toLowerCase())) return true;
    const host = hostOf(origin);
    // Behind a TLS proxy the scheme differs, so a default port may be spelled on one side only.
    return host !== '' && host === hostHeader.toLowerCase().replace(/:(80|443)$/, '');
  }

  /** Throws ServiceError `not_allowed` that names the header. */
  check(origin: string, hostHeader: string): void {
    if (!this.isHostAllowed(hostHeader)) {
      throw new ServiceError(
        'not_allowed',
        `Host "${hostHeader.slice(0, 200)}" is not a name of this server; add its origin to ALLOWED_ORIGINS.`,
      );
    }
    if (!this.isOriginAllowed(origin, hostHeader)) {
      throw new ServiceError('not_allowed', `Origin "${origin.slice(0, 200)}" is not in ALLOWED_ORIGINS.`);
    }
  }
}
