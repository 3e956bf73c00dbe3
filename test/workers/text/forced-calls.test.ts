import { describe, expect, it } from 'vitest';
import { ForcedCallParser } from '../../../workers/text/forced-calls.ts';

/** Pushes the pieces, moving the parser between them; what came out, and the parser at the end. */
function run(pieces: readonly string[], isFinished = true) {
  const events: string[] = [];
  const sink = {
    text: (text: string) => void events.push(`"${text}"`),
    toolBegin: (index: number, name: string) => void events.push(`${index}:${name}`),
    toolDelta: (index: number, text: string) => void events.push(`${index}+${text}`),
    toolEnd: (index: number) => void events.push(`${index}.`),
  };
  let parser = new ForcedCallParser();
  for (const piece of pieces) {
    parser.push(piece, sink);
    parser = new ForcedCallParser(structuredClone(parser.snapshot()));
  }
  if (isFinished) parser.finish(sink);
  return { events, parser };
}

const call = (name: string, json: string) => `<tool_call>\n{"name": "${name}", "arguments": ${json}}\n</tool_call>`;
const tricky = '{"a": "}{\\"\\\\", "b": [{"c": "]"}, 1], "": {}}';

describe('Calls that a grammar makes', () => {
  it('pass their arguments on as they are made', () => {
    const head = '<tool_call>\n{"name": "look", "arguments": ';
    const { events } = run([head, '{"at"', ': "s', 'ky"}}', '\n</tool_call>']);
    expect(events).toEqual(['0:look', '0+{"at"', '0+: "s', '0+ky"}', '0.']);
  });

  it('come out the same however the text is cut', () => {
    const text = `So:\n${call('a', tricky)}\n${call('b-1', '{}')} after < all`;
    const whole = ['"So:"', '0:a', `0+${tricky}`, '0.', '1:b-1', '1+{}', '1.', '" after < all"'];
    expect(run([text]).events).toEqual(whole);
    for (let size = 1; size < 40; size++) {
      const pieces = text.match(new RegExp(`[^]{1,${size}}`, 'g'))!;
      const joined = run(pieces).events.reduce<string[]>((all, event) => {
        const last = all.at(-1);
        const [, delta, more] = /^(\d\+)([^]*)$/.exec(event) ?? [];
        if (delta !== undefined && last?.startsWith(delta)) all[all.length - 1] = last + more!;
        else if (event.startsWith('"') && last?.startsWith('"'))
          all[all.length - 1] = last.slice(0, -1) + event.slice(1);
        else all.push(event);
        return all;
      }, []);
      expect(joined, `pieces of ${size}`).toEqual(whole);
    }
  });

  it('say that they are open where they are cut off, and show no markup', () => {
    for (const [text, events, isOpen] of [
      ['Hm <tool_call>\n{"na', ['"Hm "'], true],
      ['<tool_call>\n{"name": "a", "arguments": {"x": "y', ['0:a', '0+{"x": "y'], true],
      ['<tool_call>\n{"name": "a", "arguments": {}', ['0:a', '0+{}', '0.'], false],
      [`${call('a', '{}')}\n`, ['0:a', '0+{}', '0.'], false],
      ['5 < 6 <tool', ['"5 < 6 "', '"<tool"'], false],
    ] as const) {
      const { events: found, parser } = run([text]);
      expect(found, text).toEqual(events);
      expect(parser.isCallOpen, text).toBe(isOpen);
    }
  });

  it('hold nothing of a text that begins no call', () => {
    expect(run(['a < b'], false).events).toEqual(['"a < b"']);
  });
});
