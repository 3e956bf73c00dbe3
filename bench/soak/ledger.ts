// What happened in a soak, counted: visits by kind, ends by reason, errors by code. An error that the protocol's table does
// not have, or `internal`, is kept word for word: it is what a soak looks for. Written by the visitors, read at the end.
import { ConnectionLostError, ServiceError } from '../../clients/index.ts';
import { errorTable } from '../../protocol/errors.ts';

const MAX_KEPT = 50;

export class Ledger {
  readonly visits = new Map<string, number>();
  /** The longest visit of each kind, milliseconds. */
  readonly longest = new Map<string, number>();
  /** How responses ended: finish reasons and error codes. */
  readonly ends = new Map<string, number>();
  /** What should never happen. */
  readonly unexpected: string[] = [];

  visit(kind: string): void {
    count(this.visits, kind);
  }

  /** A visit, or a part of one worth telling apart, took so long. */
  took(kind: string, ms: number): void {
    this.longest.set(kind, Math.max(ms, this.longest.get(kind) ?? 0));
  }

  end(reason: string): void {
    count(this.ends, reason);
  }

  /** Any error of the protocol's table but `internal` is part of a busy day. */
  error(kind: string, error: unknown): void {
    if (error instanceof ServiceError) this.code(kind, error.code, error.message);
    else if (error instanceof ConnectionLostError) this.wrong(`${kind}: an answer was lost: ${error.message}`);
    else this.wrong(`${kind}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
  }

  code(kind: string, code: string, message: string): void {
    this.end(code);
    if (code === 'internal' || !Object.hasOwn(errorTable, code)) this.wrong(`${kind}: ${code}: ${message}`);
  }

  wrong(what: string): void {
    count(this.ends, 'unexpected');
    if (this.unexpected.length < MAX_KEPT) this.unexpected.push(what);
  }
}

function count(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}
