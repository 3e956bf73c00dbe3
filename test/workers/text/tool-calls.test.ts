import { describe, expect, it } from 'vitest';
import { ToolCallParser, type AnswerSink } from '../../../workers/text/tool-calls.ts';
import { seeded } from './support.ts';
import { cpuMs } from '../../support/cpu-time.ts';

interface Seen {
  text: string;
  calls: { name: string; arguments: string }[];
}

/** Collects what a parser reports and checks the order of a call's events. */
function collector(): { seen: Seen; sink: AnswerSink } {
  const seen: Seen = { text: '', calls: [] };
  let open = -1;
  const sink: AnswerSink = {
    text(text) {
      expect(text).not.toBe('');
      expect(open).toBe(-1);
      seen.text += text;
    },
    toolBegin(index, name) {
      expect(index).toBe(seen.calls.length);
      open = index;
      seen.calls.push({ name, arguments: '' });
    },
    toolDelta(index, text) {
      expect(index).toBe(open);
      const call = seen.calls[index];
      if (call !== undefined) call.arguments += text;
    },
    toolEnd(index) {
      expect(index).toBe(open);
      open = -1;
    },
  };
  return { seen, sink };
}

function parse(pieces: readonly string[], names: string[] | null = null): Seen {
  const { seen, sink } = collector();
  const parser = new ToolCallParser(names);
  for (const piece of pieces) parser.push(piece, sink);
  parser.finish(sink);
  expect(parser.numCalls).toBe(seen.calls.length);
  return seen;
}

const call = (body: string): string => `<tool_call>\n${body}\n</tool_call>`;
const weather = '{"name": "weather", "arguments": {"city": "Bern", "days": [1, 2.0]}}';
const weatherCall = { name: 'weather', arguments: '{"city": "Bern", "days": [1, 2.0]}' };

describe('ToolCallParser', () => {
  it('reports a call with the exact source of its arguments', () => {
    expect(parse([call(weather)])).toEqual({ text: '', calls: [weatherCall] });
    const odd = '{"arguments":{ "x" : 1.50 ,"\\u0079":"}</tool_call>"},"name":"f"}';
    expect(parse([`<tool_call>${odd}</tool_call>`])).toEqual({
      text: '',
      calls: [{ name: 'f', arguments: '{ "x" : 1.50 ,"\\u0079":"}</tool_call>"}' }],
    });
  });

  it('takes arguments given as a JSON string', () => {
    const body = '{"name": "f", "arguments": "{\\"a\\": \\"\\u00e9\\"}"}';
    expect(parse([call(body)])).toEqual({ text: '', calls: [{ name: 'f', arguments: '{"a": "é"}' }] });
  });

  it('shows text before, between and after calls; the white space around calls belongs to them', () => {
    expect(parse([`Let me look.\n${call(weather)}\n${call(weather)}\n`])).toEqual({
      text: 'Let me look.',
      calls: [weatherCall, weatherCall],
    });
    expect(parse([`${call(weather)} and ${call(weather)} done\n`])).toEqual({
      text: ' and  done\n',
      calls: [weatherCall, weatherCall],
    });
  });

  it('accepts a call that lacks only its closing tag when the answer ends', () => {
    for (const end of ['', '\n', '\n</tool', '</tool_call']) {
      expect(parse([`<tool_call>\n${weather}${end}`])).toEqual({ text: '', calls: [weatherCall] });
    }
  });

  it.each([
    ['no JSON', call('weather in Bern')],
    ['an unfinished object', `<tool_call>\n${weather.slice(0, -1)}`],
    ['a missing bracket', call(weather.slice(0, -1))],
    ['a raw line break in a string', call('{"name": "f", "arguments": {"a": "x\ny"}}')],
    ['single quotes', call("{'name': 'f', 'arguments': {}}")],
    ['no name', call('{"arguments": {}}')],
    ['no arguments', call('{"name": "f"}')],
    ['an empty name', call('{"name": "", "arguments": {}}')],
    ['a name that is no string', call('{"name": 3, "arguments": {}}')],
    ['arguments that are a list', call('{"name": "f", "arguments": []}')],
    ['arguments that are null', call('{"name": "f", "arguments": null}')],
    ['arguments in a string that is no JSON', call('{"name": "f", "arguments": "x"}')],
    ['arguments in a string that is no object', call('{"name": "f", "arguments": "[1]"}')],
    ['another property', call('{"name": "f", "arguments": {}, "x": 1}')],
    ['a property twice', call('{"name": "f", "name": "g", "arguments": {}}')],
    ['a list', call('[{"name": "f", "arguments": {}}]')],
    ['text before the closing tag', `<tool_call>\n${weather} ok</tool_call>`],
    ['an opening tag alone', '<tool_call>'],
    ['half a tag', 'hm <tool_ca'],
    ['only a closing tag', '</tool_call>\n'],
    ['nothing but white space', ' \n\n'],
  ])('passes on as generated: %s', (_, text) => {
    expect(parse([text])).toEqual({ text, calls: [] });
    expect(parse([...text])).toEqual({ text, calls: [] });
  });

  it('finds a call after broken ones', () => {
    const broken = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}\n';
    expect(parse([broken + call(weather)])).toEqual({ text: broken, calls: [weatherCall] });
    expect(parse([`<tool_call><tool_call>${call(weather)}`])).toEqual({
      text: '<tool_call><tool_call>',
      calls: [weatherCall],
    });
  });

  it('leaves a call of an unknown function as text', () => {
    const text = call(weather);
    expect(parse([text], ['time'])).toEqual({ text, calls: [] });
    expect(parse([text], ['time', 'weather']).calls).toEqual([weatherCall]);
  });

  it('shows text at once unless it can begin a call', () => {
    const { seen, sink } = collector();
    const parser = new ToolCallParser(null);
    const steps: [string, string][] = [
      ['a', 'a'],
      [' <', 'a '],
      ['b', 'a <b'],
      ['\n', 'a <b'],
      ['<tool', 'a <b'],
      ['_x', 'a <b\n<tool_x'],
      ['\n\n', 'a <b\n<tool_x\n'],
      ['c', 'a <b\n<tool_x\n\nc'],
    ];
    for (const [piece, shown] of steps) {
      parser.push(piece, sink);
      expect(seen.text).toBe(shown);
    }
  });

  it('reports the same however the text is cut and moved, and never loses a character', () => {
    const seed = 31_337;
    const random = seeded(seed);
    const parts = [
      call(weather),
      '<tool_call>',
      '</tool_call>',
      '\n',
      '<tool_call>\n{"name": "f", "arguments": {"a": "<tool_call>"}}',
      '{"name": "f", ',
      '"arguments": {}}',
      'text <b> ',
      '<',
      '"',
      '\\',
      ' ',
    ];
    for (let round = 0; round < 2000; round++) {
      const text = Array.from({ length: 1 + random.int(7) }, () => parts[random.int(parts.length)]).join('');
      const expected = parse([text]);
      const { seen, sink } = collector();
      let parser = new ToolCallParser(null);
      for (let at = 0; at < text.length;) {
        const next = at + 1 + random.int(9);
        parser.push(text.slice(at, next), sink);
        at = next;
        if (random.int(3) === 0) parser = new ToolCallParser(null, structuredClone(parser.snapshot()));
      }
      parser.finish(sink);
      const where = `seed ${seed}, round ${round}: ${JSON.stringify(text)}`;
      expect(seen, where).toEqual(expected);
      if (expected.calls.length === 0) expect(expected.text, where).toBe(text);
    }
  });

  it('needs linear time for junk full of tags', () => {
    const { seen, sink } = collector();
    const parser = new ToolCallParser(null);
    const piece = '<tool_call>{"a":"';
    const ms = cpuMs(() => {
      for (let i = 0; i < 20_000; i++) parser.push(piece, sink);
      parser.finish(sink);
    });
    expect(seen.text).toBe(piece.repeat(20_000));
    expect(ms).toBeLessThan(4000);
  });
});
