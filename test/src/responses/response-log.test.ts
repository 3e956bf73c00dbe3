import { describe, expect, it } from 'vitest';
import { ResponseLog } from '../../../src/responses/response-log.ts';
import type { EndEvent, LogEvent } from '../../../src/responses/response-log.ts';
import { random } from '../../support/random.ts';

const usage = { promptTokens: 1, cachedTokens: 0, completionTokens: 1, droppedMessages: 0 };
const timings = { queuedMs: 0, prefillMs: 0, ttftMs: 0, totalMs: 0 };
const end: EndEvent = { kind: 'end', reason: 'stop', usage, timings, error: null };

describe('ResponseLog', () => {
  it('merges consecutive text and never tool or end events', () => {
    const log = new ResponseLog();
    const begin: LogEvent = { kind: 'toolBegin', index: 0, callId: 'call_1', name: 'f' };
    const events: LogEvent[] = [
      { kind: 'text', text: 'a' },
      { kind: 'text', text: 'b' },
      begin,
      { kind: 'toolDelta', index: 0, text: '{' },
      { kind: 'toolDelta', index: 0, text: '}' },
      { kind: 'toolEnd', index: 0 },
      { kind: 'text', text: 'c' },
      end,
    ];
    for (const event of events) log.append(event);
    expect(log.head).toBe(8);
    expect(log.read(0)).toEqual([
      { seq: 2, event: { kind: 'text', text: 'ab' } },
      { seq: 3, event: begin },
      { seq: 4, event: { kind: 'toolDelta', index: 0, text: '{' } },
      { seq: 5, event: { kind: 'toolDelta', index: 0, text: '}' } },
      { seq: 6, event: { kind: 'toolEnd', index: 0 } },
      { seq: 7, event: { kind: 'text', text: 'c' } },
      { seq: 8, event: end },
    ]);
    expect(log.text).toBe('abc');
  });

  it('gives nothing past its head and nothing for an empty log', () => {
    const log = new ResponseLog();
    expect(log.read(0)).toEqual([]);
    expect(log.text).toBe('');
    log.append({ kind: 'text', text: 'x' });
    expect(log.read(1)).toEqual([]);
    expect(log.read(7)).toEqual([]);
    expect(log.textBetween(5, 9)).toBe('');
  });

  it('covers at most the limit of events', () => {
    const log = new ResponseLog();
    for (const text of 'abcdef') log.append({ kind: 'text', text });
    expect(log.read(1, 3)).toEqual([{ seq: 4, event: { kind: 'text', text: 'bcd' } }]);
    expect(log.read(1, 0)).toEqual([]);
  });

  it('has an epoch of 16 hex characters of its own', () => {
    const epochs = new Set(Array.from({ length: 50 }, () => new ResponseLog().epoch));
    expect(epochs.size).toBe(50);
    for (const epoch of epochs) expect(epoch).toMatch(/^[0-9a-f]{16}$/);
  });

  it.each([1, 2, 3])('reads the same in any portions, at any time (seed %i)', (seed) => {
    const next = random(seed);
    const log = new ResponseLog();
    let text = '';
    // Three readers with positions of their own, so that old and new text is asked for, across folds.
    const readers = [0, 1, 2].map(() => ({ seq: 0, text: '', others: 0 }));
    let others = 0;
    for (let step = 0; step < 3000; step++) {
      if (next() < 0.02) {
        log.append({ kind: 'toolDelta', index: 0, text: 'x' });
        others++;
      } else {
        const piece = ['a', '世', '🙂', 'word '][Math.floor(next() * 4)]!;
        text += piece;
        log.append({ kind: 'text', text: piece });
      }
      if (next() < 0.001) expect(log.text).toBe(text);
      for (const [index, reader] of readers.entries()) {
        if (next() > 1 / (1 + index * 40)) continue;
        for (const { seq, event } of log.read(reader.seq, 1 + Math.floor(next() * 300))) {
          expect(seq).toBeGreaterThan(reader.seq);
          reader.seq = seq;
          if (event.kind === 'text') reader.text += event.text;
          else reader.others++;
        }
      }
    }
    for (const reader of readers) {
      for (const { event } of log.read(reader.seq)) {
        if (event.kind === 'text') reader.text += event.text;
        else reader.others++;
      }
      expect(reader.text).toBe(text);
      expect(reader.others).toBe(others);
    }
    expect(log.bytes).toBeGreaterThan(text.length * 2);
    expect(log.bytes).toBeLessThan(text.length * 2 + 3000 * 8 + others * 200);
  });
});
