// Which tokens come with which text: the bytes of the tokens, joined, are those of the text that is shown.
import { describe, expect, it } from 'vitest';
import type { TokenLogprob } from '../../../protocol/messages.ts';
import { AnswerStream, type AnswerOptions } from '../../../workers/text/answer-stream.ts';
import { TextModel } from '../../../workers/text/text-model.ts';
import { defaultTextDir, loadFiles, seeded, sentencepieceFiles } from './support.ts';

const seed = Number(process.env.SEED ?? 20261122);
const bytes = TextModel.bytes();
const call = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>';

interface Shown {
  text: string;
  tokens: TokenLogprob[];
  /** Text and tokens in the order they came. */
  order: string[];
}

/** Pushes ids through a stream that moves between threads where `moves` says so. */
function run(model: TextModel, ids: readonly number[], options: AnswerOptions, moves = () => false): Shown {
  const shown: Shown = { text: '', tokens: [], order: [] };
  const sink = {
    text: (text: string) => {
      shown.text += text;
      shown.order.push(text);
    },
    logprobs: (tokens: TokenLogprob[]) => {
      shown.tokens.push(...tokens);
      for (const [token] of tokens) shown.order.push(`[${token}]`);
    },
    toolBegin: () => void shown.order.push('call'),
    toolDelta: () => {},
    toolEnd: () => {},
  };
  let stream = new AnswerStream(model, { ...options, withLogprobs: true });
  for (const [index, id] of ids.entries()) {
    const [token, own] = model.tokenName(id);
    if (stream.push(id, sink, [token, -index, own, []])) break;
    if (moves())
      stream = new AnswerStream(model, { ...options, withLogprobs: true }, structuredClone(stream.snapshot()));
  }
  stream.finish(sink);
  return shown;
}

const joined = ({ tokens }: Shown): string => Buffer.from(tokens.flatMap(([, , own]) => own ?? [])).toString('utf8');
const plain: AnswerOptions = { stop: [], parseTools: false };

describe('LogprobStream', () => {
  it('names parts of characters by their bytes and lets them out with the character', () => {
    const shown = run(bytes, bytes.encode('aé'), plain);
    expect(shown.order).toEqual(['[a]', 'a', '[\\xc3]', '[\\xa9]', 'é']);
    expect(shown.tokens[1]).toEqual(['\\xc3', -1, [0xc3], []]);
  });

  it('keeps tokens back with text that could become a stop string, and drops those of the stop string', () => {
    expect(run(bytes, bytes.encode('ab STay'), { stop: ['STOP'], parseTools: false }).order.join('')).toBe(
      '[a]a[b]b[ ] [S][T][a]STa[y]y',
    );
    const stopped = run(bytes, bytes.encode('ab STOP'), { stop: ['STOP'], parseTools: false });
    expect(stopped.tokens.map(([token]) => token).join('')).toBe('ab ');
  });

  it('cuts a token that a stop string cuts', () => {
    const model = loadFiles(sentencepieceFiles());
    const ids = model.encode('hello world hello');
    const whole = run(model, ids, plain);
    expect(joined(whole)).toBe(whole.text);
    for (let at = 1; at < whole.text.length; at++) {
      const stop = whole.text.slice(at, at + 3);
      const cut = run(model, ids, { stop: [stop], parseTools: false });
      expect(joined(cut), stop).toBe(cut.text);
      expect(cut.text, stop).toBe(whole.text.slice(0, whole.text.indexOf(stop)));
    }
  });

  it('leaves the tokens of tool calls out, and tells what was decided before the call comes', () => {
    const shown = run(bytes, bytes.encode(`Sure.\n${call} and`), { stop: [], parseTools: true });
    expect(joined(shown)).toBe(shown.text);
    expect(shown.text).toBe('Sure. and');
    expect(shown.order.indexOf('[.]')).toBeLessThan(shown.order.indexOf('call'));
  });

  it('has no entry for special tokens', () => {
    expect(run(bytes, [256, 97, 257], plain).tokens.map(([token]) => token)).toEqual(['a']);
    expect(bytes.tokenName(257)).toEqual(['<|end|>', null]);
    expect(bytes.tokenName(5000)).toEqual(['<5000>', null]);
  });

  it.each([
    ['bytes', () => bytes],
    ['byte-level', () => TextModel.load(defaultTextDir)],
    ['sentencepiece', () => loadFiles(sentencepieceFiles())],
  ])('joins to the text shown: any text, stops, calls and moves (%s)', (name, load) => {
    const model = load();
    const random = seeded(seed);
    const pieces = [
      'hello',
      ' world',
      '你好',
      '😀',
      'é',
      '\n',
      ' ',
      call,
      '<tool_call>',
      '{"a":',
      '.',
      'STOP',
      '</tool_call>',
    ];
    for (let round = 0; round < 300; round++) {
      const said = Array.from({ length: 1 + random.int(12) }, () => pieces[random.int(pieces.length)]!).join('');
      const stop = random.int(2) === 0 ? [] : [['STOP'], ['lo', '好'], ['😀', ' w'], ['.\n']][random.int(4)]!;
      const options = { stop, parseTools: random.int(2) === 0 };
      const ids = model.encode(said);
      const shown = run(model, ids, options, () => random.int(3) === 0);
      expect(joined(shown), `${name}, seed ${seed}, round ${round}: ${JSON.stringify([said, options])}`).toBe(
        shown.text,
      );
    }
  });

  it('tells the true bytes where they are no text, and stays in step behind them', () => {
    const random = seeded(seed + 1);
    for (let round = 0; round < 200; round++) {
      const ids = Array.from({ length: 1 + random.int(30) }, () => random.int(256));
      const shown = run(bytes, ids, plain, () => random.int(3) === 0);
      expect(
        shown.tokens.flatMap(([, , own]) => own ?? []),
        `seed ${seed + 1}, round ${round}`,
      ).toEqual(ids);
      const stopped = run(bytes, [...ids, ...bytes.encode(' then STOP')], { stop: ['STOP'], parseTools: false });
      expect(stopped.tokens.flatMap(([, , own]) => own ?? [])).toEqual([...ids, ...bytes.encode(' then ')]);
    }
  });
});
