// Every rule of validate.ts and options.ts with its bad form: the code, the field it names, and where it is answered.
import { describe, expect, it } from 'vitest';
import { Limits } from '../../protocol/constants.ts';
import type { ServiceError } from '../../protocol/errors.ts';
import { Op } from '../../protocol/messages.ts';
import { parseMessages, parseSampling, parseSamplingField, parseTool, parseTools } from '../../protocol/options.ts';
import { MAX_ID, parseClientMessage } from '../../protocol/validate.ts';

const LANE = 3;
const user = { role: 'user', content: 'Hi' };
const create = (options: unknown) => [Op.Create, LANE, 'r1', options];
const withMessage = (message: unknown) => create({ messages: [user, message] });
const withSampling = (sampling: unknown) => create({ messages: [user], sampling });
const withForm = (form: object) => create({ messages: [user], ...form });
const fn = { type: 'function', name: 'f' };
const withTools = (tools: unknown) => create({ messages: [user], tools });
const tool = { name: 'f' };
const resume = { response: 'resp', epoch: 'e', lastSeq: 3 };
const call = { id: 'c', name: 'f', arguments: '{}' };
const repeat = <T>(count: number, value: T) => Array.from({ length: count }, () => value);
const distinctTools = (count: number) => Array.from({ length: count }, (_, i) => ({ name: `f${i}` }));
const bias = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, i) => [String(i), 1]));

const param = (path: string) => expect.objectContaining({ code: 'invalid_request', param: path });

/** Error, lane and requestId of a frame that must be refused. */
function refusal(value: unknown): { error: ServiceError; lane: number; requestId: string | null } {
  const parsed = parseClientMessage(value);
  if (parsed.ok) throw new Error(`was accepted: ${JSON.stringify(value)}`);
  return parsed;
}

describe('parseClientMessage', () => {
  const notFrames: unknown[] = [
    null,
    1,
    'x',
    {},
    [],
    [Op.Ping],
    ['1', 0],
    [-1, 0],
    [1.5, 0],
    [2 ** 31, 0],
    [null, 0],
    [NaN, 0],
    [Op.Ping, '0'],
    [Op.Ping, -1],
    [Op.Ping, 0.5],
    [Op.Ping, 2 ** 31],
    [Op.Ping, null],
    [Op.Ping, []],
  ];

  it.each(notFrames)('ends the connection over %j, which is not a frame', (value) => {
    const { error, lane, requestId } = refusal(value);
    expect(error.code).toBe('invalid_frame');
    expect(error.row.scope).toBe('connection');
    expect([lane, requestId]).toEqual([0, null]);
  });

  it('answers an unknown op with unsupported on its lane, with its requestId where it has one', () => {
    for (const op of [0, 15, 31, Op.Welcome, Op.Deltas, Op.Error, 99, MAX_ID]) {
      expect(refusal([op, 5, 'r9'])).toMatchObject({
        error: { code: 'unsupported', param: 'op' },
        lane: 5,
        requestId: 'r9',
      });
      expect(refusal([op, 5, { r: 1 }])).toMatchObject({ error: { code: 'unsupported' }, lane: 5, requestId: null });
    }
  });

  const bad: [path: string, value: unknown][] = [
    // Hello and lanes
    ['version', [Op.Hello, 0]],
    ['version', [Op.Hello, 0, '1', {}]],
    ['version', [Op.Hello, 0, -1, {}]],
    ['lane', [Op.Hello, LANE, 1, {}]],
    ['options', [Op.Hello, 0, 1, 'token']],
    ['token', [Op.Hello, 0, 1, { token: 7 }]],
    ['token', [Op.Hello, 0, 1, { token: '' }]],
    ['client', [Op.Hello, 0, 1, { client: 'x'.repeat(257) }]],
    ['instance', [Op.Hello, 0, 1, { instance: 'x'.repeat(15) }]],
    ['instance', [Op.Hello, 0, 1, { instance: 'x'.repeat(129) }]],
    ['instance', [Op.Hello, 0, 1, { instance: 1e20 }]],
    ['agent', [Op.Hello, 0, 1, { agent: 'x' }]],
    ['lane', [Op.OpenLane, 0, {}]],
    ['class', [Op.OpenLane, LANE, { class: 'fast' }]],
    ['priority', [Op.OpenLane, LANE, { priority: 1 }]],
    ['options', [Op.OpenLane, LANE, []]],
    ['lane', [Op.CloseLane, 0]],
    // handles, seq, nonce
    ['handle', [Op.Cancel, LANE]],
    ['handle', [Op.Cancel, LANE, 0]],
    ['handle', [Op.Cancel, LANE, 2 ** 31]],
    ['heard', [Op.Cancel, LANE, 1, -1]],
    ['heard', [Op.Cancel, LANE, 1, 1.5]],
    ['heard', [Op.Cancel, LANE, 1, 'all']],
    ['heard', [Op.Cancel, LANE, 1, true]],
    ['handle', [Op.Ack, LANE, '1', 1]],
    ['seq', [Op.Ack, LANE, 1]],
    ['seq', [Op.Ack, LANE, 1, -1]],
    ['seq', [Op.Ack, LANE, 1, 1.5]],
    ['nonce', [Op.Ping, LANE]],
    ['nonce', [Op.Ping, LANE, 0.5]],
    ['nonce', [Op.Ping, LANE, true]],
    ['nonce', [Op.Ping, LANE, 'x'.repeat(129)]],
    // resume
    ['requestId', [Op.Resume, LANE, 5, resume]],
    ['options', [Op.Resume, LANE, 'r1', 'resp']],
    ['response', [Op.Resume, LANE, 'r1']],
    ['response', [Op.Resume, LANE, 'r1', { ...resume, response: '' }]],
    ['response', [Op.Resume, LANE, 'r1', { ...resume, response: 'x'.repeat(129) }]],
    ['epoch', [Op.Resume, LANE, 'r1', { ...resume, epoch: 7 }]],
    ['epoch', [Op.Resume, LANE, 'r1', { ...resume, epoch: null }]],
    ['lastSeq', [Op.Resume, LANE, 'r1', { response: 'resp', epoch: 'e' }]],
    ['lastSeq', [Op.Resume, LANE, 'r1', { ...resume, lastSeq: -1 }]],
    ['lastSeq', [Op.Resume, LANE, 'r1', { ...resume, lastSeq: 0.5 }]],
    ['lastSeq', [Op.Resume, LANE, 'r1', { ...resume, lastSeq: '3' }]],
    ['offsets', [Op.Resume, LANE, 'r1', { ...resume, offsets: 1 }]],
    ['sentences', [Op.Resume, LANE, 'r1', { ...resume, sentences: 'en' }]],
    ['states', [Op.Resume, LANE, 'r1', { ...resume, states: {} }]],
    ['handle', [Op.Resume, LANE, 'r1', { ...resume, handle: 1 }]],
    // sessions
    ['requestId', [Op.ListSessions, LANE]],
    ['requestId', [Op.ListSessions, LANE, 1]],
    ['requestId', [Op.ListSessions, LANE, '']],
    ['requestId', [Op.ListSessions, LANE, 'x'.repeat(Limits.requestIdChars + 1)]],
    ['session', [Op.History, LANE, 'r1']],
    ['start', [Op.History, LANE, 'r1', 's', -1]],
    ['start', [Op.History, LANE, 'r1', 's', 1.5]],
    ['start', [Op.History, LANE, 'r1', 's', 'first']],
    ['start', [Op.History, LANE, 'r1', 's', 2 ** 31]],
    ['count', [Op.History, LANE, 'r1', 's', 0, 0]],
    ['count', [Op.History, LANE, 'r1', 's', null, -1]],
    ['count', [Op.History, LANE, 'r1', 's', 0, '10']],
    ['count', [Op.History, LANE, 'r1', 's', 0, 2 ** 31]],
    ['session', [Op.CloseSession, LANE, 'r1', '']],
    ['session', [Op.Rollback, LANE, 'r1', 'x'.repeat(129), 1]],
    ['numTurns', [Op.Rollback, LANE, 'r1', 's']],
    ['numTurns', [Op.Fork, LANE, 'r1', 's', -1]],
    ['numTurns', [Op.Fork, LANE, 'r1', 's', '1']],
    ['options', [Op.OpenSession, LANE, 'r1', 5]],
    ['name', [Op.OpenSession, LANE, 'r1', { name: 'x' }]],
    ['model', [Op.OpenSession, LANE, 'r1', { session: 's', model: 'm' }]],
    ['messages', [Op.OpenSession, LANE, 'r1', { session: 's', messages: [] }]],
    ['model', [Op.OpenSession, LANE, 'r1', { model: '' }]],
    ['system', [Op.OpenSession, LANE, 'r1', { system: ['x'] }]],
    ['truncation', [Op.OpenSession, LANE, 'r1', { truncation: 'middle' }]],
    ['messages[0]', [Op.OpenSession, LANE, 'r1', { messages: ['Hi'] }]],
    // create
    ['messages', [Op.Create, LANE, 'r1']],
    ['messages', create({})],
    ['messages', create({ messages: null })],
    ['messages', create({ messages: [] })],
    ['messages', create({ messages: 'Hi' })],
    ['messages', create({ messages: repeat(Limits.messagesPerRequest + 1, user) })],
    ['options', create([])],
    ['n', create({ messages: [user], n: 2 })],
    ['model', create({ messages: [user], model: 5 })],
    ['model', create({ messages: [user], session: 's', model: 'm' })],
    ['supersede', create({ messages: [user], supersede: 0 })],
    ['supersede', create({ messages: [user], supersede: 1.5 })],
    ['supersede', create({ messages: [user], supersede: '' })],
    ['supersede', create({ messages: [user], supersede: ['lane'] })],
    ['supersede', create({ messages: [user], supersede: true })],
    ['offsets', create({ messages: [user], offsets: 'utf16' })],
    ['sentences', create({ messages: [user], sentences: 1 })],
    ['states', create({ messages: [user], states: 'all' })],
    ['class', create({ messages: [user], class: 'VOICE' })],
    ['truncation', create({ messages: [user], truncation: true })],
    ['deadlineMs', create({ messages: [user], deadlineMs: 0 })],
    ['deadlineMs', create({ messages: [user], deadlineMs: -5 })],
    ['deadlineMs', create({ messages: [user], deadlineMs: NaN })],
    ['deadlineMs', create({ messages: [user], deadlineMs: 2 ** 31 })],
    // chat messages
    ['messages[1]', withMessage(null)],
    ['messages[1].role', withMessage({ content: 'x' })],
    ['messages[1].role', withMessage({ role: 'developer', content: 'x' })],
    ['messages[1].content', withMessage({ role: 'user' })],
    ['messages[1].content', withMessage({ role: 'user', content: [{ type: 'text', text: 'x' }] })],
    ['messages[1].name', withMessage({ ...user, name: '' })],
    ['messages[1].images', withMessage({ ...user, images: [] })],
    ['messages[1].toolCallId', withMessage({ role: 'tool', content: 'x' })],
    ['messages[1].toolCallId', withMessage({ ...user, toolCallId: 'c' })],
    ['messages[1].toolCalls', withMessage({ ...user, toolCalls: [call] })],
    ['messages[1].toolCalls[0].id', withMessage({ role: 'assistant', content: '', toolCalls: [{ ...call, id: '' }] })],
    [
      'messages[1].toolCalls[0].name',
      withMessage({ role: 'assistant', content: '', toolCalls: [{ ...call, name: 'a b' }] }),
    ],
    [
      'messages[1].toolCalls[0].arguments',
      withMessage({ role: 'assistant', content: '', toolCalls: [{ ...call, arguments: {} }] }),
    ],
    ['messages[1].toolCalls', withMessage({ role: 'assistant', content: '', toolCalls: repeat(129, call) })],
    ['messages[0].role', create({ session: 's', messages: [{ role: 'assistant', content: 'x' }] })],
    ['messages[1].role', create({ session: 's', messages: [user, { role: 'system', content: 'x' }] })],
    // tools
    ['tools', withTools({})],
    ['tools', withTools(distinctTools(Limits.toolsPerRequest + 1))],
    ['tools[0].name', withTools([{}])],
    ['tools[0].name', withTools([{ name: 'with space' }])],
    ['tools[0].name', withTools([{ name: 'x'.repeat(65) }])],
    ['tools[1].name', withTools([tool, tool])],
    ['tools[0].description', withTools([{ ...tool, description: 1 }])],
    ['tools[0].parameters', withTools([{ ...tool, parameters: 'object' }])],
    ['tools[0].parameters', withTools([{ ...tool, parameters: [] }])],
    ['tools[0].strict', withTools([{ ...tool, strict: 'yes' }])],
    // form
    ['toolChoice', withForm({ toolChoice: 'any' })],
    ['toolChoice', withForm({ toolChoice: 1 })],
    ['toolChoice', withForm({ toolChoice: [] })],
    ['toolChoice.type', withForm({ toolChoice: {} })],
    ['toolChoice.type', withForm({ toolChoice: { type: 'custom', name: 'f' } })],
    ['toolChoice.name', withForm({ toolChoice: { type: 'function' } })],
    ['toolChoice.name', withForm({ toolChoice: { type: 'function', name: 'with space' } })],
    ['toolChoice.function', withForm({ toolChoice: { type: 'function', name: 'f', function: {} } })],
    ['toolChoice.mode', withForm({ toolChoice: { type: 'allowed_tools', tools: [fn] } })],
    ['toolChoice.mode', withForm({ toolChoice: { type: 'allowed_tools', mode: 'none', tools: [fn] } })],
    ['toolChoice.tools', withForm({ toolChoice: { type: 'allowed_tools', mode: 'auto', tools: [] } })],
    [
      'toolChoice.tools[0].type',
      withForm({ toolChoice: { type: 'allowed_tools', mode: 'auto', tools: [{ name: 'f' }] } }),
    ],
    ['parallelToolCalls', withForm({ parallelToolCalls: 1 })],
    ['responseFormat', withForm({ responseFormat: 'json' })],
    ['responseFormat.type', withForm({ responseFormat: {} })],
    ['responseFormat.type', withForm({ responseFormat: { type: 'grammar' } })],
    ['responseFormat.schema', withForm({ responseFormat: { type: 'json_object', schema: {} } })],
    ['responseFormat.pattern', withForm({ responseFormat: { type: 'regex' } })],
    ['responseFormat.pattern', withForm({ responseFormat: { type: 'regex', pattern: '' } })],
    ['responseFormat.pattern', withForm({ responseFormat: { type: 'regex', pattern: 'x'.repeat(65_537) } })],
    ['responseFormat.name', withForm({ responseFormat: { type: 'json_schema', schema: {} } })],
    ['responseFormat.name', withForm({ responseFormat: { type: 'json_schema', name: '', schema: {} } })],
    ['responseFormat.schema', withForm({ responseFormat: { type: 'json_schema', name: 's', schema: [] } })],
    ['responseFormat.strict', withForm({ responseFormat: { type: 'json_schema', name: 's', strict: 'yes' } })],
    ['responseFormat.json_schema', withForm({ responseFormat: { type: 'json_schema', name: 's', json_schema: {} } })],
    // sampling
    ['sampling', withSampling('hot')],
    ['sampling.top_k', withSampling({ top_k: 1 })],
    ['sampling.temperature', withSampling({ temperature: 2.01 })],
    ['sampling.temperature', withSampling({ temperature: -0.1 })],
    ['sampling.temperature', withSampling({ temperature: '1' })],
    ['sampling.temperature', withSampling({ temperature: NaN })],
    ['sampling.topK', withSampling({ topK: 1.5 })],
    ['sampling.topK', withSampling({ topK: -1 })],
    ['sampling.topP', withSampling({ topP: 1.1 })],
    ['sampling.minP', withSampling({ minP: -1 })],
    ['sampling.repetitionPenalty', withSampling({ repetitionPenalty: 0 })],
    ['sampling.presencePenalty', withSampling({ presencePenalty: 2.5 })],
    ['sampling.frequencyPenalty', withSampling({ frequencyPenalty: -3 })],
    ['sampling.seed', withSampling({ seed: 2 ** 53 })],
    ['sampling.seed', withSampling({ seed: 0.5 })],
    ['sampling.maxTokens', withSampling({ maxTokens: 0 })],
    ['sampling.maxTokens', withSampling({ maxTokens: Infinity })],
    ['sampling.stop', withSampling({ stop: 'x' })],
    ['sampling.stop', withSampling({ stop: repeat(Limits.stopStrings + 1, 'x') })],
    ['sampling.stop[1]', withSampling({ stop: ['x', ''] })],
    ['sampling.stop[0]', withSampling({ stop: ['x'.repeat(Limits.stopStringChars + 1)] })],
    ['sampling.ignoreEos', withSampling({ ignoreEos: 1 })],
    ['sampling.logitBias', withSampling({ logitBias: [] })],
    ['sampling.logitBias', withSampling({ logitBias: bias(Limits.logitBiasEntries + 1) })],
    ['sampling.logitBias.the', withSampling({ logitBias: { the: 1 } })],
    ['sampling.logitBias.-1', withSampling({ logitBias: { '-1': 1 } })],
    ['sampling.logitBias.1.5', withSampling({ logitBias: { '1.5': 1 } })],
    ['sampling.logitBias.007', withSampling({ logitBias: { '007': 1 } })],
    ['sampling.logitBias.7', withSampling({ logitBias: { 7: 101 } })],
  ];

  it.each(bad)('names %s in its refusal (case %#)', (path, value) => {
    const { error, lane, requestId } = refusal(value);
    const frame = value as unknown[];
    expect(error.code).toBe('invalid_request');
    expect(error.param).toBe(path);
    expect(error.message.startsWith(path)).toBe(true);
    expect(lane).toBe(frame[1]);
    expect(requestId).toBe(frame[2] === 'r1' ? 'r1' : null);
  });

  it('accepts everything at its limit', () => {
    const sampling = { stop: repeat(8, 'x'.repeat(256)), logitBias: bias(1024), seed: 2 ** 53 - 1, topK: 1e6 };
    const options = { messages: repeat(4096, user), tools: distinctTools(128), sampling, deadlineMs: MAX_ID };
    expect(parseClientMessage([Op.Create, MAX_ID, 'x'.repeat(128), options]).ok).toBe(true);
  });

  it('drops entries at the end that it does not know', () => {
    expect(parseClientMessage([Op.Cancel, LANE, 4, null, 'new', { x: 1 }])).toEqual({
      ok: true,
      message: [Op.Cancel, LANE, 4],
    });
    expect(parseClientMessage([Op.CloseLane, LANE, 'new'])).toEqual({ ok: true, message: [Op.CloseLane, LANE] });
  });

  it('takes a resume from the beginning without an epoch, and heard up to nothing', () => {
    const message = [Op.Resume, LANE, 'r1', { response: 'resp', lastSeq: 0 }];
    expect(parseClientMessage(message)).toEqual({ ok: true, message });
    expect(parseClientMessage([Op.Cancel, LANE, 1, 0])).toEqual({ ok: true, message: [Op.Cancel, LANE, 1, 0] });
  });

  it('takes nil and a missing entry as absent', () => {
    expect(parseClientMessage([Op.Hello, 0, 1])).toEqual({ ok: true, message: [Op.Hello, 0, 1, {}] });
    expect(parseClientMessage([Op.OpenLane, LANE, null])).toEqual({ ok: true, message: [Op.OpenLane, LANE, {}] });
    const message = [Op.OpenSession, LANE, 'r1', {}];
    expect(parseClientMessage([Op.OpenSession, LANE, 'r1'])).toEqual({ ok: true, message });
    expect(parseClientMessage([Op.OpenSession, LANE, 'r1', { model: null, tools: null }])).toEqual({
      ok: true,
      message,
    });
  });

  it('keeps nil where it is a value of its own', () => {
    const sampling = { seed: null, maxTokens: null, logitBias: null };
    const parsed = parseClientMessage(withSampling({ ...sampling, temperature: null }));
    expect(parsed).toEqual({ ok: true, message: create({ messages: [user], sampling }) });
  });

  it('shortens unknown names of fields in its messages', () => {
    expect(refusal(create({ messages: [user], ['k'.repeat(5000)]: 1 })).error.message.length).toBeLessThan(200);
  });

  it('does not take inherited properties for fields', () => {
    for (const key of ['toString', 'constructor', 'hasOwnProperty']) {
      expect(refusal(create({ messages: [user], [key]: 1 })).error.param).toBe(key);
    }
    expect(refusal(create(Object.create({ messages: [user] }))).error.param).toBe('messages');
  });
});

describe('the pieces for other dialects', () => {
  it('name fields by the path they are given', () => {
    expect(() => parseTool({ name: '' }, 'tools[2].function')).toThrow(param('tools[2].function.name'));
    expect(() => parseSamplingField('topP', 3, 'top_p')).toThrow(param('top_p'));
    expect(() => parseSampling({ topP: 3 }, '')).toThrow(param('topP'));
    expect(() => parseMessages([{ role: 'user' }], 'messages')).toThrow(param('messages[0].content'));
  });

  it('return what they were given', () => {
    expect(parseTools([tool], 'tools')).toEqual([tool]);
    expect(parseSamplingField('temperature', 0, 'temperature')).toBe(0);
    expect(parseSamplingField('maxTokens', null, 'max_tokens')).toBeNull();
  });
});
