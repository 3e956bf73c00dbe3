// The sessions that compute several tokens of one row in one run, bit for bit as single decode steps would. Owned by
// an OnnxModel that decodes; verify-graph.ts made the graphs and says why they agree.
import type { CompiledModel, ModelShape } from '../messages/models.ts';
import { GraphNames } from './graph-builder.ts';
import { OrtSession, tensor, type SessionOptions, type Tensor, type Tensors } from './ort-binding.ts';
import { verifiedName } from './verify-graph.ts';

interface VerifySession {
  session: OrtSession;
  ids: BigInt64Array;
  /** Length of the row before, and after, each token. */
  lengths: Int32Array;
  longest: Int32Array;
  feeds: Tensors;
  fetches: Tensors;
  /** [tokens, vocab] */
  logits: Float32Array;
  /** Slot that feeds and fetches point to, or -1. */
  slot: number;
}

export class Verifier {
  /** Ascending; grows with `open`. */
  sizes: readonly number[] = [];
  readonly #shape: ModelShape;
  readonly #sessions = new Map<number, VerifySession>();

  constructor(shape: ModelShape) {
    this.#shape = shape;
  }

  /** Loads the session of one graph (about 35 ms). Throws an Error when it cannot be loaded. */
  open({ numTokens, path }: CompiledModel['verifyGraphs'][number], options: SessionOptions): void {
    const session = new OrtSession(path, { ...options, forSteps: true });
    this.#sessions.set(numTokens, createSession(session, numTokens, this.#shape.vocabSize));
    this.sizes = [...this.#sessions.keys()].sort((a, b) => a - b);
  }

  get hookMisses(): number {
    return [...this.#sessions.values()].reduce((sum, { session }) => sum + session.hookMisses, 0);
  }

  /** `kv`: the slot's memory, K and V of every layer, each [1, kvHeads, maxLen, headDim]. Checks nothing but the size. */
  run(slot: number, kv: readonly Tensor[], tokens: ArrayLike<number>, past: number): Float32Array {
    const found = this.#sessions.get(tokens.length);
    if (found === undefined) throw new Error(`${tokens.length} tokens cannot be verified at once`);
    if (found.slot !== slot) this.#aim(found, slot, kv);
    for (let i = 0; i < tokens.length; i++) {
      found.ids[i] = BigInt(tokens[i]!);
      found.lengths[i] = past + i;
      found.longest[i] = past + i + 1;
    }
    found.session.run(found.feeds, found.fetches);
    return found.logits;
  }

  dispose(): void {
    for (const { session } of this.#sessions.values()) session.dispose();
    this.#sessions.clear();
  }

  /** One memory for the past and for what each token leaves behind: so each finds the tokens before it. */
  #aim(session: VerifySession, slot: number, kv: readonly Tensor[]): void {
    for (let layer = 0; layer < this.#shape.numLayers; layer++) {
      for (const [i, kind] of (['k', 'v'] as const).entries()) {
        const memory = kv[2 * layer + i]!;
        session.feeds[GraphNames.past(kind, layer)] = memory;
        for (let token = 0; token < session.ids.length; token++) {
          session.fetches[verifiedName(kind, layer, token)] = memory;
        }
      }
    }
    session.slot = slot;
  }
}

function createSession(session: OrtSession, numTokens: number, vocabSize: number): VerifySession {
  const ids = new BigInt64Array(numTokens);
  const lengths = new Int32Array(numTokens);
  const longest = new Int32Array(numTokens);
  const every = BigInt64Array.from({ length: numTokens }, (_, i) => BigInt(i));
  const logits = new Float32Array(numTokens * vocabSize);
  const feeds: Tensors = {
    [GraphNames.ids]: tensor('int64', ids, [numTokens, 1]),
    [GraphNames.lengths]: tensor('int32', lengths, [numTokens]),
    [GraphNames.longest]: tensor('int32', longest, [numTokens]),
    [GraphNames.logitIndex]: tensor('int64', every, [numTokens]),
  };
  const fetches: Tensors = {
    [GraphNames.tick]: tensor('int64', new BigInt64Array(1), [1]),
    [GraphNames.logits]: tensor('float32', logits, [numTokens, vocabSize]),
  };
  return { session, ids, lengths, longest, feeds, fetches, logits, slot: -1 };
}
