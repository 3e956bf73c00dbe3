// What pieces of text between special tokens were encoded to, so that a conversation that comes again with one more turn
// is not encoded again. prompt.ts asks before it encodes. What must stay true: a tenant finds only what it wrote itself,
// since the time of an answer would tell it what others wrote; and memory is bounded, per tenant and in all.

/** Tenants remembered in one thread; of more, whoever asked last. */
const MAX_TENANTS = 8;
const BYTES_PER_TENANT = 2 << 20;
/** No piece takes more than this part of a tenant's memory. */
const PIECES_AT_LEAST = 16;
/** A string, an array and an entry of a map, about. */
const BYTES_PER_PIECE = 128;

export class EncodedPieces {
  readonly #tenants = new Map<string, TenantPieces>();
  readonly #maxTenants: number;
  readonly #bytesPerTenant: number;

  constructor(maxTenants = MAX_TENANTS, bytesPerTenant = BYTES_PER_TENANT) {
    this.#maxTenants = maxTenants;
    this.#bytesPerTenant = bytesPerTenant;
  }

  of(tenant: string): TenantPieces {
    const pieces = this.#tenants.get(tenant) ?? new TenantPieces(this.#bytesPerTenant);
    this.#tenants.delete(tenant);
    this.#tenants.set(tenant, pieces);
    if (this.#tenants.size > this.#maxTenants) this.#tenants.delete(oldest(this.#tenants));
    return pieces;
  }
}

/** One tenant's pieces; those used last stay. */
export class TenantPieces {
  readonly #ids = new Map<string, readonly number[]>();
  readonly #maxBytes: number;
  #bytes = 0;

  constructor(maxBytes = BYTES_PER_TENANT) {
    this.#maxBytes = maxBytes;
  }

  /** Estimated bytes held. */
  get bytes(): number {
    return this.#bytes;
  }

  get(key: string): readonly number[] | undefined {
    const ids = this.#ids.get(key);
    if (ids === undefined) return undefined;
    this.#ids.delete(key);
    this.#ids.set(key, ids);
    return ids;
  }

  /** Remembers a piece that is not there; the caller leaves `ids` as they are. */
  add(key: string, ids: readonly number[]): void {
    const bytes = bytesOf(key, ids);
    if (bytes * PIECES_AT_LEAST > this.#maxBytes) return;
    this.#ids.set(key, ids);
    this.#bytes += bytes;
    while (this.#bytes > this.#maxBytes) {
      const first = oldest(this.#ids);
      this.#bytes -= bytesOf(first, this.#ids.get(first)!);
      this.#ids.delete(first);
    }
  }
}

function bytesOf(key: string, ids: readonly number[]): number {
  return BYTES_PER_PIECE + 2 * key.length + 8 * ids.length;
}

function oldest(map: ReadonlyMap<string, unknown>): string {
  return map.keys().next().value!;
}
