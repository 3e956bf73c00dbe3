import { describe, expect, it } from 'vitest';
import { ServiceError } from '../../../protocol/errors.ts';
import {
  checkAgainst,
  ignoredFields,
  MAX_INPUTS,
  parseEmbeddingRequest,
} from '../../../src/dialects/embedding-request.ts';

const info = { id: 'e', aliases: [], dimensions: 384, maxTokens: 256, vocabSize: 30_522, note: '' };

function refusal(work: () => unknown): { code: string; param: string | undefined } {
  try {
    work();
  } catch (error) {
    if (error instanceof ServiceError) return { code: error.code, param: error.param };
    throw error;
  }
  throw new Error('it was accepted');
}

describe('parseEmbeddingRequest', () => {
  it('reads one text, several, token ids, and several lists of them', () => {
    expect(parseEmbeddingRequest({ input: 'a' }).inputs).toEqual(['a']);
    expect(parseEmbeddingRequest({ input: ['a', ' '] }).inputs).toEqual(['a', ' ']);
    expect(parseEmbeddingRequest({ input: [5, 6] }).inputs).toEqual([[5, 6]]);
    expect(parseEmbeddingRequest({ input: [[5], [6, 7]] }).inputs).toEqual([[5], [6, 7]]);
    expect(parseEmbeddingRequest({ input: Array.from({ length: MAX_INPUTS }, () => 'a') }).inputs).toHaveLength(2048);
  });

  it('has floats of all dimensions from the default model unless told otherwise', () => {
    const expected = { model: undefined, dimensions: undefined, form: 'float' };
    expect(parseEmbeddingRequest({ input: 'a' })).toMatchObject(expected);
    const nulls = { input: 'a', model: null, dimensions: null, encoding_format: null, user: null, later: null };
    expect(parseEmbeddingRequest(nulls)).toMatchObject(expected);
    const all = { model: 'm', input: 'a', dimensions: 7, encoding_format: 'base64' };
    expect(parseEmbeddingRequest(all)).toEqual({ model: 'm', inputs: ['a'], dimensions: 7, form: 'base64' });
  });

  it('accepts without effect only what is on its list', () => {
    expect(ignoredFields).toEqual(['user']);
    expect(parseEmbeddingRequest({ input: 'a', user: 'someone' }).inputs).toEqual(['a']);
  });

  it.each([
    ['input', {}],
    ['input', { input: null }],
    ['input', { input: '' }],
    ['input', { input: [] }],
    ['input', { input: 7 }],
    ['input', { input: { text: 'a' } }],
    ['input[0]', { input: [''] }],
    ['input[1]', { input: ['a', ''] }],
    ['input[1]', { input: ['a', 5] }],
    ['input[1]', { input: ['a', [5]] }],
    ['input[1]', { input: [5, 'a'] }],
    ['input[0]', { input: [null] }],
    ['input[0]', { input: [{}] }],
    ['input[0]', { input: [[]] }],
    ['input[1]', { input: [[5], []] }],
    ['input[1]', { input: [[5], 'a'] }],
    ['input[0]', { input: [-1] }],
    ['input[0]', { input: [1.5] }],
    ['input[0][1]', { input: [[1, 2 ** 31]] }],
    ['input', { input: Array.from({ length: MAX_INPUTS + 1 }, () => 'a') }],
    ['input', { input: Array.from({ length: MAX_INPUTS + 1 }, () => [5]) }],
    ['model', { input: 'a', model: '' }],
    ['model', { input: 'a', model: 5 }],
    ['dimensions', { input: 'a', dimensions: 0 }],
    ['dimensions', { input: 'a', dimensions: 1.5 }],
    ['dimensions', { input: 'a', dimensions: '7' }],
    ['encoding_format', { input: 'a', encoding_format: 'int8' }],
    ['encoding_format', { input: 'a', encoding_format: 5 }],
  ])('names %s when it is wrong (%#)', (param, body) => {
    expect(refusal(() => parseEmbeddingRequest(body))).toEqual({ code: 'invalid_request', param });
  });

  it('refuses fields that it does not know by name', () => {
    expect(refusal(() => parseEmbeddingRequest({ input: 'a', input_type: 'query' }))).toEqual({
      code: 'unsupported',
      param: 'input_type',
    });
  });
});

const check = (body: Record<string, unknown>) => () => checkAgainst(info, parseEmbeddingRequest(body));

describe('checkAgainst', () => {
  it('lets pass what the model has', () => {
    expect(check({ input: [[0], [30_521]], dimensions: 384 })).not.toThrow();
  });

  it('refuses dimensions and token ids that the model lacks', () => {
    expect(refusal(check({ input: 'a', dimensions: 385 }))).toEqual({ code: 'invalid_request', param: 'dimensions' });
    expect(refusal(check({ input: [30_522] }))).toEqual({ code: 'invalid_request', param: 'input' });
    expect(refusal(check({ input: [[1], [30_522]] }))).toEqual({ code: 'invalid_request', param: 'input[1]' });
  });
});
