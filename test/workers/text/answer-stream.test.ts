import { describe, expect, it } from 'vitest';
import { AnswerStream, type AnswerOptions, type AnswerSink } from '../../../workers/text/answer-stream.ts';
import { TextModel } from '../../../workers/text/text-model.ts';
import { defaultTextDir, seeded } from './support.ts';

const bytes = TextModel.bytes();
const plain: AnswerOptions = { stop: [], parseTools: false };

function collector(): { events: string[]; sink: AnswerSink } {
  const events: string[] = [];
  const sink: AnswerSink = {
    text: (text) => events.push(text),
    toolBegin: (index, name) => events.push(`begin ${index} ${name}`),
    toolDelta: (index, text) => events.push(`delta ${index} ${text}`),
    toolEnd: (index) => events.push(`end ${index}`),
  };
  return { events, sink };
}

function run(text: string, options: AnswerOptions): { events: string[]; isStopped: boolean; numToolCalls: number } {
  const { events, sink } = collector();
  const stream = new AnswerStream(bytes, options);
  let isStopped = false;
  for (const id of bytes.encode(text)) {
    isStopped = stream.push(id, sink);
    if (isStopped) break;
  }
  stream.finish(sink);
  return { events, isStopped, numToolCalls: stream.numToolCalls };
}

const toolCall = '<tool_call>\n{"name": "f", "arguments": {"a": "x.y"}}\n</tool_call>';

describe('AnswerStream', () => {
  it('passes text on token by token and hides the end token', () => {
    const { events, sink } = collector();
    const stream = new AnswerStream(bytes, plain);
    for (const id of [...bytes.encode('hé'), 257]) expect(stream.push(id, sink)).toBe(false);
    stream.finish(sink);
    expect(events).toEqual(['h', 'é']);
  });

  it('says when a stop string is complete and shows none of it', () => {
    expect(run('one. two. three', { stop: ['two'], parseTools: false })).toEqual({
      events: [...'one. '],
      isStopped: true,
      numToolCalls: 0,
    });
  });

  it('finds stop strings of several bytes a character', () => {
    expect(run('你好😀吗', { stop: ['😀'], parseTools: false })).toMatchObject({
      events: ['你', '好'],
      isStopped: true,
    });
  });

  it('shows an unfinished character at the end, also behind a held stop and an open call', () => {
    const { events, sink } = collector();
    const stream = new AnswerStream(bytes, { stop: ['ab'], parseTools: true });
    for (const id of [...bytes.encode('<tool_call>a'), 0xe4]) stream.push(id, sink);
    stream.finish(sink);
    expect(events.join('')).toBe('<tool_call>a\uFFFD');
  });

  it('leaves out an unfinished character when it was cut off, and nothing else that was held back', () => {
    for (let kept = 0; kept <= 4; kept++) {
      const { events, sink } = collector();
      const stream = new AnswerStream(bytes, { stop: ['ab'], parseTools: true });
      for (const id of [...bytes.encode('<tool_call>a'), ...bytes.encode('🙂').slice(0, kept)]) stream.push(id, sink);
      stream.finish(sink, true);
      expect(events.join('')).toBe(`<tool_call>a${kept === 4 ? '🙂' : ''}`);
    }
  });

  it('counts tool calls and applies stop strings before them', () => {
    expect(run(toolCall, { stop: [], parseTools: true })).toEqual({
      events: ['begin 0 f', 'delta 0 {"a": "x.y"}', 'end 0'],
      isStopped: false,
      numToolCalls: 1,
    });
    const cut = run(toolCall, { stop: ['.'], parseTools: true });
    expect(cut).toMatchObject({ isStopped: true, numToolCalls: 0 });
    expect(cut.events.join('')).toBe('<tool_call>\n{"name": "f", "arguments": {"a": "x');
    expect(run(toolCall, { stop: [], parseTools: true, toolNames: ['g'] }).events.join('')).toBe(toolCall);
  });

  it('goes on after a move at any token as if nothing had happened', () => {
    const seed = 5150;
    const random = seeded(seed);
    const variants: AnswerOptions[] = [
      plain,
      { stop: ['ST', '\n\nU'], parseTools: false },
      { stop: ['ST'], parseTools: true },
      { stop: [], parseTools: true, toolNames: ['f'] },
    ];
    const parts = ['S', 'T', '\n', 'U', toolCall, '😀', '你', 'x ', '<tool_call>', '{"name"'];
    for (let round = 0; round < 1000; round++) {
      const options = variants[round % variants.length] ?? plain;
      const ids = Array.from({ length: 1 + random.int(6) }, () =>
        bytes.encode(parts[random.int(parts.length)] ?? ''),
      ).flat();
      if (random.int(4) === 0) ids.splice(random.int(ids.length), 1, 0xf0);
      const steady = collector();
      const moved = collector();
      const stays = new AnswerStream(bytes, options);
      let moves = new AnswerStream(bytes, options);
      for (const id of ids) {
        const isStopped = stays.push(id, steady.sink);
        expect(moves.push(id, moved.sink)).toBe(isStopped);
        moves = new AnswerStream(bytes, options, structuredClone(moves.snapshot()));
        if (isStopped) break;
      }
      stays.finish(steady.sink);
      moves.finish(moved.sink);
      expect(moved.events, `seed ${seed}, round ${round}`).toEqual(steady.events);
      expect(moves.numToolCalls).toBe(stays.numToolCalls);
    }
  });

  it('gives back the text of real tokens', () => {
    const model = TextModel.load(defaultTextDir);
    const text = 'Hello, 世界! 👩‍👩‍👧 naïve\r\n\tcode();   end';
    const { events, sink } = collector();
    const stream = new AnswerStream(model, plain);
    for (const id of model.encode(text)) stream.push(id, sink);
    stream.finish(sink);
    expect(events.join('')).toBe(text);
  });
});
