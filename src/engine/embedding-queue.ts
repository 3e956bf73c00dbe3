// The inputs of embedding requests that wait to be computed, and which of them make the next batch: tenants take turns,
// the requests of one tenant take turns, so that one request of two thousand inputs holds up nobody. Used by
// embedder.ts.
import type { EmbeddingInput } from '../../workers/messages/cpu-tasks.ts';

/** Inputs of one request that are not computed yet. */
export interface WaitingJob {
  readonly tenant: string;
  /** The next one last. */
  readonly inputs: { index: number; input: EmbeddingInput }[];
}

export interface BatchEntry<J extends WaitingJob> {
  job: J;
  index: number;
  input: EmbeddingInput;
}

export interface BatchLimits {
  inputs: number;
  /** One input may exceed it. */
  tokens: number;
}

export class EmbeddingQueue<J extends WaitingJob> {
  /** In the order of their turns. A tenant without jobs is not here. */
  readonly #tenants = new Map<string, J[]>();
  #numInputs = 0;
  #numTokens = 0;

  get numInputs(): number {
    return this.#numInputs;
  }

  /** Whether what waits makes a whole batch. */
  fills({ inputs, tokens }: BatchLimits): boolean {
    return this.#numInputs >= inputs || this.#numTokens >= tokens;
  }

  add(job: J): void {
    const jobs = this.#tenants.get(job.tenant) ?? [];
    jobs.push(job);
    this.#tenants.set(job.tenant, jobs);
    this.#count(job, 1);
  }

  /** Forgets what is left of a job. */
  remove(job: J): void {
    const jobs = this.#tenants.get(job.tenant);
    const at = jobs?.indexOf(job) ?? -1;
    if (jobs === undefined || at < 0) return;
    jobs.splice(at, 1);
    if (jobs.length === 0) this.#tenants.delete(job.tenant);
    this.#count(job, -1);
  }

  /** The next inputs, one of each tenant and request by turns; empty when nothing waits. */
  take({ inputs, tokens }: BatchLimits): BatchEntry<J>[] {
    const batch: BatchEntry<J>[] = [];
    let numTokens = 0;
    while (batch.length < inputs) {
      const next = this.#tenants.entries().next().value;
      if (next === undefined) break;
      const [tenant, jobs] = next;
      const job = jobs[0]!;
      const { index, input } = job.inputs.at(-1)!;
      if (batch.length > 0 && numTokens + input.tokenIds.length > tokens) break;
      job.inputs.pop();
      batch.push({ job, index, input });
      numTokens += input.tokenIds.length;
      this.#numInputs--;
      jobs.shift();
      if (job.inputs.length > 0) jobs.push(job);
      this.#tenants.delete(tenant);
      if (jobs.length > 0) this.#tenants.set(tenant, jobs);
    }
    this.#numTokens -= numTokens;
    return batch;
  }

  #count(job: J, sign: 1 | -1): void {
    this.#numInputs += sign * job.inputs.length;
    for (const { input } of job.inputs) this.#numTokens += sign * input.tokenIds.length;
  }
}
