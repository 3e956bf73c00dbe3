// Logits processors: objects that change a row of logits before a token is drawn. sampler.ts asks this file which
// ones a request needs and applies them, in the order of the table, to a scratch copy of the row. What must stay
// true: at its default a parameter makes no processor, so the common request copies nothing.
import { ServiceError } from '../../protocol/errors.ts';
import type { SamplingParams } from '../../protocol/sampling.ts';
import type { TokenCounts } from './token-counts.ts';

/** One processor of one sequence. */
export interface LogitsProcessor {
  /** Changes row [vocab] in place. */
  apply(row: Float32Array): void;
}

/** How a sampling parameter becomes a processor. */
export interface ProcessorKind {
  readonly name: string;
  /** True when it never changes which token is the likeliest: greedy sequences skip it. */
  readonly isArgmaxInvariant: boolean;
  /** False at the default: nothing to do. */
  isActive(params: SamplingParams): boolean;
  /** What only the engine can check, because it knows the vocabulary. Throws ServiceError invalid_request. */
  validate(params: SamplingParams, vocabSize: number): void;
  create(params: SamplingParams, counts: TokenCounts): LogitsProcessor;
}

/** Added to the model's own logits, before anything scales them, as OpenAI describes it. */
const logitBias: ProcessorKind = {
  name: 'logit_bias',
  isArgmaxInvariant: false,
  isActive: (params) => params.logitBias !== null && Object.keys(params.logitBias).length > 0,
  validate(params, vocabSize) {
    for (const [id, bias] of Object.entries(params.logitBias ?? {})) {
      if (!/^(?:0|[1-9]\d*)$/.test(id) || Number(id) >= vocabSize || !Number.isFinite(bias)) {
        throw new ServiceError('invalid_request', `logit_bias: ${id} is not a token id below ${vocabSize}`, {
          param: 'logit_bias',
        });
      }
    }
  },
  create(params) {
    const entries = Object.entries(params.logitBias ?? {});
    const ids = Int32Array.from(entries, ([id]) => Number(id));
    const biases = Float64Array.from(entries, ([, bias]) => bias);
    return {
      apply(row) {
        for (let i = 0; i < ids.length; i++) {
          const id = ids[i] ?? 0;
          row[id] = (row[id] ?? 0) + (biases[i] ?? 0);
        }
      },
    };
  },
};

/** Over prompt and answer. Divides what speaks for a token and multiplies what speaks against it (Keskar et al., CTRL). */
const repetitionPenalty: ProcessorKind = {
  name: 'repetition_penalty',
  isArgmaxInvariant: false,
  isActive: (params) => params.repetitionPenalty !== 1,
  validate: () => {},
  create(params, counts) {
    const penalty = params.repetitionPenalty;
    return {
      apply(row) {
        for (let i = 0; i < counts.numSeen; i++) {
          const id = counts.seenIds[i] ?? 0;
          const logit = row[id] ?? 0;
          row[id] = logit > 0 ? logit / penalty : logit * penalty;
        }
      },
    };
  },
};

/** Over the answer only: once per token that occurred, and once per occurrence, as OpenAI defines them. */
const presenceAndFrequencyPenalty: ProcessorKind = {
  name: 'presence_penalty, frequency_penalty',
  isArgmaxInvariant: false,
  isActive: (params) => params.presencePenalty !== 0 || params.frequencyPenalty !== 0,
  validate: () => {},
  create({ presencePenalty, frequencyPenalty }, counts) {
    return {
      apply(row) {
        for (let i = 0; i < counts.numSeen; i++) {
          const id = counts.seenIds[i] ?? 0;
          const count = counts.answerCounts[id] ?? 0;
          if (count > 0) row[id] = (row[id] ?? 0) - presencePenalty - frequencyPenalty * count;
        }
      },
    };
  },
};

/** In the order of application: see the README. */
export const processorKinds: readonly ProcessorKind[] = [logitBias, repetitionPenalty, presenceAndFrequencyPenalty];
