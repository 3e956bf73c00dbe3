// The embedding tasks of the CPU pool: text to ids, ids to vectors, vectors to JSON. One tokenizer and one open model
// per thread and encoder; the weights are mapped, so that all threads share them.
import type {
  CompiledEncoder,
  EmbeddingInput,
  EmbeddingTokens,
  EmbeddingVectors,
  VectorForm,
} from './messages/cpu-tasks.ts';
import { EncoderModel, normalized } from './model/encoder-model.ts';
import { EmbeddingText } from './text/embedding-text.ts';

const texts = new Map<string, EmbeddingText>();
const models = new Map<string, EncoderModel>();

/** Stops at the first input that is too long. */
export function tokenize(encoder: CompiledEncoder, inputs: readonly (string | readonly number[])[]): EmbeddingTokens {
  const text = texts.get(encoder.textDir) ?? new EmbeddingText(encoder.textDir);
  texts.set(encoder.textDir, text);
  const tokenIds: Int32Array[] = [];
  for (const [index, input] of inputs.entries()) {
    const { maxTokens } = encoder.info;
    const ids = typeof input === 'string' ? text.encode(input, maxTokens) : text.complete(input, maxTokens);
    if ('tooLong' in ids) return { index, tooLong: ids.tooLong };
    tokenIds.push(ids);
  }
  return { tokenIds };
}

export function embed(encoder: CompiledEncoder, inputs: readonly EmbeddingInput[]): EmbeddingVectors {
  const startedAt = performance.now();
  const model = models.get(encoder.path) ?? new EncoderModel(encoder.path, encoder.info.dimensions);
  models.set(encoder.path, model);
  const vectors = model.embed(inputs.map(({ tokenIds }) => tokenIds));
  const rendered = vectors.map((vector, i) => {
    const { dimensions, form } = inputs[i]!;
    return renderVector(dimensions < vector.length ? normalized(vector.subarray(0, dimensions)) : vector, form);
  });
  return { vectors: rendered, computeMs: performance.now() - startedAt };
}

/** Nine digits tell any two float32 apart, and are half as many as their value as a double has. */
const DIGITS = 9;

/** A value of JSON. */
export function renderVector(vector: Float32Array, form: VectorForm): string {
  if (form === 'float') return `[${Array.from(vector, (value) => Number(value.toPrecision(DIGITS))).join(',')}]`;
  return `"${Buffer.from(vector.buffer, vector.byteOffset, vector.byteLength).toString('base64')}"`;
}
