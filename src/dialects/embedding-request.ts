// The body of POST /v1/embeddings → what the embedder is asked for. As in the other dialects every field works, is
// refused by its name, or stands in `ignoredFields`. Used by embeddings.ts.
import { ServiceError } from '../../protocol/errors.ts';
import { integer, list, oneOf, refuse, string } from '../../protocol/fields.ts';
import type { EmbeddingSource } from '../engine/embedder.ts';
import type { EmbeddingModelInfo, VectorForm } from '../../workers/messages/cpu-tasks.ts';
import { unsupported } from './fields.ts';

export interface EmbeddingBody {
  model: string | undefined;
  inputs: EmbeddingSource[];
  /** Undefined: all there are. */
  dimensions: number | undefined;
  form: VectorForm;
}

/** Inputs of one request, as in OpenAI's API. */
export const MAX_INPUTS = 2048;
/** Accepted without effect: it labels a request. */
export const ignoredFields = ['user'] as const;

const MAX_TOKEN_ID = 2 ** 31 - 1;
/** Longer ones are too long for any encoder; a body has room for a few million. */
const MAX_TOKEN_IDS = 1 << 20;
const tokenIds = list(integer(0, MAX_TOKEN_ID), 1, MAX_TOKEN_IDS);
const text = string(1, Infinity);

/** Throws `invalid_request` or `unsupported` naming the field. */
export function parseEmbeddingRequest(body: Record<string, unknown>): EmbeddingBody {
  const request: EmbeddingBody = { model: undefined, inputs: [], dimensions: undefined, form: 'float' };
  for (const [name, value] of Object.entries(body)) {
    if (value === null || value === undefined) continue;
    switch (name) {
      case 'model':
        request.model = string(1, 256)(value, name);
        break;
      case 'input':
        request.inputs = parseInput(value);
        break;
      case 'dimensions':
        request.dimensions = integer(1, MAX_TOKEN_ID)(value, name);
        break;
      case 'encoding_format':
        request.form = oneOf(['float', 'base64'] as const)(value, name);
        break;
      default:
        if (!(ignoredFields as readonly string[]).includes(name)) unsupported(name.slice(0, 64));
    }
  }
  if (request.inputs.length === 0) throw new ServiceError('invalid_request', 'input is missing.', { param: 'input' });
  return request;
}

/** What only the model can tell. Throws `invalid_request` naming the field. */
export function checkAgainst({ dimensions, vocabSize }: EmbeddingModelInfo, request: EmbeddingBody): void {
  if (request.dimensions !== undefined) integer(1, dimensions)(request.dimensions, 'dimensions');
  for (const [i, input] of request.inputs.entries()) {
    if (typeof input === 'string' || input.every((id) => id < vocabSize)) continue;
    refuse(request.inputs.length === 1 ? 'input' : `input[${i}]`, `token ids below ${vocabSize}`);
  }
}

/** A text, token ids, or a list of either kind. */
function parseInput(value: unknown): EmbeddingSource[] {
  if (!Array.isArray(value)) {
    return [typeof value === 'string' ? text(value, 'input') : refuse('input', 'a string or an array')];
  }
  if (value.length === 0) return refuse('input', 'a non-empty array');
  if (typeof value[0] === 'number') return [tokenIds(value, 'input')];
  if (typeof value[0] === 'string') return list<EmbeddingSource>(text, 1, MAX_INPUTS)(value, 'input');
  if (Array.isArray(value[0])) return list<EmbeddingSource>(tokenIds, 1, MAX_INPUTS)(value, 'input');
  return refuse('input[0]', 'a string, a token id or an array of token ids');
}
