// The embedder over a pool that the test answers: batching, fairness, limits, cancelling and ends.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ServiceError } from '../../../protocol/errors.ts';
import { Embedder, EmbeddingCancelled, type EmbeddingRequest } from '../../../src/engine/embedder.ts';
import { defaultQueue } from '../../../src/engine/waiting-room.ts';
import type { CpuRequest, CpuResult, EmbeddingModelInfo } from '../../../workers/messages/cpu-tasks.ts';

const info: EmbeddingModelInfo = {
  id: 'small',
  aliases: ['Small'],
  dimensions: 4,
  maxTokens: 256,
  vocabSize: 1000,
  note: '',
};

function fakeIds(input: string | readonly number[]): readonly number[] {
  return typeof input === 'string' ? Array.from(input, (c) => c.codePointAt(0)!) : input;
}

/** Every text is as many tokens as it has characters; its vector is `"text"`, by its first token. */
class FakePool {
  readonly tasks: CpuRequest[] = [];
  readonly batches: { tokens: number[][]; finish(): void; fail(error: Error): void }[] = [];
  failsToCompile = false;
  /** Compiling ends when this does. */
  compiling = Promise.resolve();

  run = (task: CpuRequest): Promise<CpuResult> => {
    this.tasks.push(task);
    if (task.op === 'describeEncoder') return Promise.resolve(info);
    if (task.op === 'compileEncoder') {
      if (this.failsToCompile) return Promise.reject(new Error('disk full'));
      return this.compiling.then(() => ({ path: '', textDir: '', weightsBytes: 0, info }));
    }
    if (task.op === 'tokenize') {
      const index = task.inputs.findIndex((input) => input.length > info.maxTokens);
      if (index >= 0) return Promise.resolve({ index, tooLong: `has ${task.inputs[index]!.length} tokens` });
      return Promise.resolve({ tokenIds: task.inputs.map((input) => Int32Array.from(fakeIds(input))) });
    }
    if (task.op !== 'embed') return Promise.reject(new Error(`unexpected ${task.op}`));
    return new Promise((resolve, reject) => {
      const tokens = task.inputs.map(({ tokenIds }) => [...tokenIds]);
      const vectors = tokens.map((ids) => JSON.stringify(String.fromCodePoint(...ids)));
      this.batches.push({ tokens, finish: () => resolve({ vectors, computeMs: 1 }), fail: reject });
    });
  };

  /** Texts of a batch, in order. */
  texts(batch: number): string[] {
    return this.batches[batch]!.tokens.map((ids) => String.fromCodePoint(...ids));
  }
}

let pool: FakePool;
let embedder: Embedder;
let errors: unknown[];

beforeEach(() => {
  vi.useFakeTimers();
  pool = new FakePool();
  errors = [];
  embedder = new Embedder({
    model: 'small',
    cacheDir: '',
    numThreads: 1,
    queue: { ...defaultQueue, tenantQueueSize: defaultQueue.queueSize / 2 },
    run: pool.run,
    onError: (error) => errors.push(error),
  });
});
afterEach(() => {
  vi.useRealTimers();
});

const request = (inputs: EmbeddingRequest['inputs'], more: Partial<EmbeddingRequest> = {}): EmbeddingRequest => ({
  inputs,
  dimensions: undefined,
  form: 'float',
  tenant: 'a',
  deadlineMs: undefined,
  ...more,
});

/** Everything that can happen without a clock, then the clock. */
const pass = (ms: number): Promise<unknown> => vi.advanceTimersByTimeAsync(ms);

const many = (count: number, text: string): string[] => Array.from({ length: count }, () => text);

async function refusal(work: () => unknown): Promise<ServiceError> {
  try {
    await work();
  } catch (error) {
    if (error instanceof ServiceError) return error;
    throw error;
  }
  throw new Error('it was not refused');
}

describe('Embedder', () => {
  it('knows its model by name, alias and default once it was described', async () => {
    expect((await refusal(() => embedder.find('small'))).code).toBe('model_loading');
    await embedder.describe();
    for (const name of ['small', 'Small', 'default', undefined]) expect(embedder.find(name)).toBe(info);
    expect(await refusal(() => embedder.find('other'))).toMatchObject({ code: 'unknown_model', param: 'model' });
    expect(pool.tasks.map(({ op }) => op)).toEqual(['describeEncoder']);
  });

  it('collects what comes within the delay into one batch, and compiles once', async () => {
    const first = embedder.submit(request(['one']));
    await pass(1);
    const second = embedder.submit(request(['three', 'ten']));
    expect(pool.batches).toHaveLength(0);
    await pass(2);
    expect(pool.batches).toHaveLength(1);
    expect(pool.texts(0).sort()).toEqual(['one', 'ten', 'three']);
    pool.batches[0]!.finish();
    expect(await first.result).toEqual({ vectors: ['"one"'], promptTokens: 3 });
    expect(await second.result).toEqual({ vectors: ['"three"', '"ten"'], promptTokens: 8 });
    expect(pool.tasks.filter(({ op }) => op === 'compileEncoder')).toHaveLength(1);
    expect([embedder.waiting, embedder.active]).toEqual([0, 0]);
  });

  it('begins a full batch at once, and the next one when it is done', async () => {
    const job = embedder.submit(request(many(40, 'abc')));
    await pass(0);
    expect(pool.texts(0)).toHaveLength(32);
    await pass(50);
    expect(pool.batches).toHaveLength(1);
    pool.batches[0]!.finish();
    await pass(0);
    expect(pool.texts(1)).toHaveLength(8);
    pool.batches[1]!.finish();
    expect((await job.result).vectors).toHaveLength(40);
  });

  it('bounds a batch by tokens too, one long input excepted', async () => {
    embedder.submit(request(many(5, 'x'.repeat(200))));
    await pass(0);
    expect(pool.texts(0)).toHaveLength(2);
  });

  it('lets tenants and their requests take turns, and computes like lengths together', async () => {
    embedder.submit(request([...many(32, 'aa'), 'a']));
    await pass(0);
    embedder.submit(request(many(40, 'bb'), { tenant: 'b' }));
    embedder.submit(request(many(40, 'cc'), { tenant: 'b' }));
    embedder.submit(request(['dddd', 'd', 'ddd'], { tenant: 'd' }));
    await pass(0);
    expect(pool.texts(0).filter((text) => text === 'a')).toHaveLength(1);
    pool.batches[0]!.finish();
    await pass(0);
    const second = pool.texts(1);
    expect(second.slice(0, 8)).toEqual(['aa', 'bb', 'd', 'cc', 'ddd', 'bb', 'dddd', 'cc']);
    expect(second).toHaveLength(32);
  });

  it('names the input that is too long and computes nothing of its request', async () => {
    const long = 'x'.repeat(257);
    const one = await refusal(() => embedder.submit(request([long])).result);
    expect(one).toMatchObject({ code: 'context_too_long', param: 'input' });
    // Behind 32,768 characters another task reads on.
    const inputs = [...many(200, 'y'.repeat(200)), long];
    const second = await refusal(() => embedder.submit(request(inputs)).result);
    expect(second).toMatchObject({ code: 'context_too_long', param: 'input[200]' });
    expect(second.message).toBe('input[200] has 257 tokens; small takes 256 tokens.');
    await pass(10);
    expect(pool.batches).toHaveLength(0);
    expect(embedder.waiting).toBe(0);
  });

  it('refuses with advice what is too much, of one tenant and of all', async () => {
    const jobs = ['a', 'b', 'c'].map((tenant) => embedder.submit(request(many(2048, 'x'), { tenant })));
    embedder.submit(request(many(2048, 'x'), { tenant: 'a' }));
    const own = await refusal(() => embedder.submit(request(['x'], { tenant: 'a' })));
    expect(own).toMatchObject({ code: 'overloaded' });
    jobs[1]!.cancel();
    await expect(jobs[1]!.result).rejects.toThrow(EmbeddingCancelled);
    const ofTenant = await refusal(() => embedder.submit(request(['x'], { tenant: 'a' })));
    expect(ofTenant.code).toBe('rate_limited');
    for (const { retryAfterMs } of [own, ofTenant]) expect(retryAfterMs).toBeGreaterThan(0);
    embedder.submit(request(['x'], { tenant: 'b' }));
  });

  it('computes nothing more of a request whose client is gone', async () => {
    const gone = embedder.submit(request(many(100, 'gg')));
    gone.result.catch(() => {});
    const other = embedder.submit(request(['other']));
    await pass(0);
    expect(pool.texts(0)).toHaveLength(32);
    gone.cancel();
    gone.cancel();
    expect(embedder.active).toBe(1);
    pool.batches[0]!.finish();
    await pass(0);
    expect(pool.texts(1)).toEqual(['other']);
    pool.batches[1]!.finish();
    await pass(5);
    expect(pool.batches).toHaveLength(2);
    expect((await other.result).vectors).toEqual(['"other"']);
    expect(embedder.waiting).toBe(0);
  });

  it('ends what waits too long, by the queue and by its own deadline', async () => {
    const running = embedder.submit(request(many(33, 'x')));
    await pass(0);
    const late = embedder.submit(request(['a'], { deadlineMs: 500 }));
    const patient = embedder.submit(request(['b'], { deadlineMs: 1e6 }));
    const [deadline, timeout] = [refusal(() => late.result), refusal(() => patient.result)];
    await pass(500);
    expect((await deadline).code).toBe('deadline_exceeded');
    await pass(defaultQueue.queueTimeoutMs);
    expect((await timeout).code).toBe('queue_timeout');
    // What was begun may take as long as it takes.
    expect(embedder.active).toBe(1);
    pool.batches[0]!.finish();
    await pass(0);
    pool.batches[1]!.finish();
    expect((await running.result).vectors).toHaveLength(33);
    expect(embedder.waiting).toBe(0);
  });

  it('answers internal when a batch fails, logs the cause, and goes on', async () => {
    const job = embedder.submit(request(['a']));
    const failure = refusal(() => job.result);
    await pass(5);
    const cause = new Error('native trouble');
    pool.batches[0]!.fail(cause);
    expect((await failure).code).toBe('internal');
    expect(errors).toEqual([cause]);
    const next = embedder.submit(request(['b']));
    await pass(5);
    pool.batches[1]!.finish();
    expect((await next.result).vectors).toEqual(['"b"']);
  });

  it('tries to compile again after a failure', async () => {
    pool.failsToCompile = true;
    expect((await refusal(() => embedder.submit(request(['a'])).result)).code).toBe('internal');
    pool.failsToCompile = false;
    const job = embedder.submit(request(['a']));
    await pass(5);
    pool.batches[0]!.finish();
    expect((await job.result).vectors).toEqual(['"a"']);
  });

  it('stops: what waits ends with shutting_down, and what runs is waited for', async () => {
    const job = embedder.submit(request(many(40, 'x')));
    const failure = refusal(() => job.result);
    await pass(0);
    let isStopped = false;
    const stopped = embedder.stop().then(() => (isStopped = true));
    await pass(10);
    expect((await failure).code).toBe('shutting_down');
    expect(isStopped).toBe(false);
    pool.batches[0]!.finish();
    await stopped;
    expect(pool.batches).toHaveLength(1);
  });

  it('takes a compile that the end has stopped for no failure', async () => {
    const { promise, reject } = Promise.withResolvers<void>();
    pool.compiling = promise;
    const failure = refusal(() => embedder.submit(request(['x'])).result);
    await pass(0);
    const stopped = embedder.stop();
    reject(new Error('stopped'));
    await stopped;
    expect((await failure).code).toBe('shutting_down');
    expect(errors).toEqual([]);
  });
});
