// Whose grammar is checked next, and who has to wait: tenants in turn, the one that used least first, and nobody uses more
// than his share of the checking thread's time for long. Pure rules with a clock from outside; used by grammar-checker.ts.
import { ServiceError } from '../../protocol/errors.ts';

/** Computing time that a tenant may use at once, and what it earns per second, in milliseconds. */
const CREDIT_MS = 1000;
const EARNED_PER_SECOND = 100;
/** A check that was ended counts as so much: it helped nobody, and a thread has to be started again. */
const OVERRUN_MS = 900;
/** Checks that may wait: of one tenant, and of all. */
const MAX_OF_TENANT = 16;
const MAX_WAITING = 64;
const RETRY_MS = 1000;
/** For so long a tenant whose check had to be ended is not trusted. */
const DISTRUST_MS = 60_000;

interface Account<Job> {
  creditMs: number;
  /** When that was so. */
  atMs: number;
  waiting: Job[];
  distrustedUntilMs: number;
}

export class CheckQueue<Job extends { tenant: string }> {
  readonly #now: () => number;
  readonly #accounts = new Map<string, Account<Job>>();
  #numWaiting = 0;

  /** now: milliseconds of a clock that never goes back. */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  get size(): number {
    return this.#numWaiting;
  }

  /** Tenants that are remembered. */
  get numAccounts(): number {
    return this.#accounts.size;
  }

  /** A check of its had to be ended lately. */
  isDistrusted(tenant: string): boolean {
    return (this.#accounts.get(tenant)?.distrustedUntilMs ?? -Infinity) > this.#now();
  }

  /** Throws ServiceError: `rate_limited` where the tenant has to wait, `overloaded` where all have to. */
  enter(job: Job): void {
    const account = this.#account(job.tenant);
    if (account.creditMs <= 0) throw usedUp(account);
    if (account.waiting.length >= MAX_OF_TENANT) {
      throw new ServiceError('rate_limited', 'too many new forms of yours wait for their check', {
        retryAfterMs: RETRY_MS,
      });
    }
    if (this.#numWaiting >= MAX_WAITING) {
      throw new ServiceError('overloaded', 'too many new forms wait for their check', { retryAfterMs: RETRY_MS });
    }
    account.waiting.push(job);
    this.#numWaiting++;
  }

  /** The oldest of the tenant with the most credit; undefined when nobody waits. */
  take(): Job | undefined {
    let best: Account<Job> | undefined;
    for (const tenant of this.#accounts.keys()) {
      const account = this.#account(tenant);
      if (account.waiting.length > 0 && (best === undefined || account.creditMs > best.creditMs)) best = account;
    }
    if (best === undefined) return undefined;
    this.#numWaiting--;
    return best.waiting.shift();
  }

  /**
   * Notes what a check has cost. Returns those of the tenant that wait no longer, because nothing is left to it, and the
   * error to tell them.
   */
  charge(tenant: string, ms: number, isOverrun: boolean): { refused: Job[]; error: ServiceError } {
    const account = this.#account(tenant);
    account.creditMs -= isOverrun ? OVERRUN_MS : ms;
    if (isOverrun) account.distrustedUntilMs = this.#now() + DISTRUST_MS;
    const refused = account.creditMs <= 0 ? account.waiting.splice(0) : [];
    this.#numWaiting -= refused.length;
    return { refused, error: usedUp(account) };
  }

  /** All that wait, which do so no longer. */
  clear(): Job[] {
    this.#numWaiting = 0;
    return [...this.#accounts.values()].flatMap(({ waiting }) => waiting.splice(0));
  }

  #account(tenant: string): Account<Job> {
    const now = this.#now();
    let account = this.#accounts.get(tenant);
    if (account === undefined) {
      this.#forgetFull();
      account = { creditMs: CREDIT_MS, atMs: now, waiting: [], distrustedUntilMs: -Infinity };
      this.#accounts.set(tenant, account);
    }
    account.creditMs = Math.min(CREDIT_MS, account.creditMs + ((now - account.atMs) / 1000) * EARNED_PER_SECOND);
    account.atMs = now;
    return account;
  }

  /** Accounts that are as good as new. */
  #forgetFull(): void {
    const now = this.#now();
    for (const [tenant, { creditMs, atMs, waiting, distrustedUntilMs }] of this.#accounts) {
      const isFull = creditMs + ((now - atMs) / 1000) * EARNED_PER_SECOND >= CREDIT_MS;
      if (isFull && waiting.length === 0 && distrustedUntilMs <= now) this.#accounts.delete(tenant);
    }
  }
}

function usedUp({ creditMs }: { creditMs: number }): ServiceError {
  const retryAfterMs = Math.max(RETRY_MS, Math.ceil((-creditMs / EARNED_PER_SECOND) * 1000));
  const message = 'checking new forms of yours has taken too much time; forms that were checked are not affected';
  return new ServiceError('rate_limited', message, { retryAfterMs });
}
