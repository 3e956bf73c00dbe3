import { describe, expect, it } from 'vitest';
import { Ev, Haste } from '../../workers/messages/events.ts';
import { Outputs } from '../../workers/outputs.ts';

describe('Outputs', () => {
  it('hands a part of a step over with the log-probabilities its events refer to', () => {
    const out = new Outputs();
    const token = (id: number, name: string): void => {
      out.beginToken(id, 65, Haste.later);
      out.logprobs([[name, -1, [65], []]]);
      out.text('A');
      out.endToken();
    };
    token(1, 'first');
    const part = out.takePart();
    token(2, 'second');
    for (const [step, name] of [
      [part, 'first'],
      [out.take(), 'second'],
    ] as const) {
      const at = step.events.indexOf(Ev.Logprobs);
      expect(step.logprobs![step.events[at + 2] as number]).toEqual([[name, -1, [65], []]]);
    }
    expect(out.take().logprobs).toBeUndefined();
  });

  it('says how soon its events have to leave: the most urgent one decides, until the step is taken', () => {
    const out = new Outputs();
    expect(out.haste).toBe(Haste.later);
    out.beginToken(1, 65, Haste.urgent);
    out.endToken();
    out.beginToken(2, 65, Haste.later);
    out.endToken();
    expect(out.haste).toBe(Haste.urgent);
    out.takePart();
    expect(out.haste).toBe(Haste.urgent);
    out.take();
    expect(out.haste).toBe(Haste.later);
    for (const event of [
      () => out.encoded(1, 5, 0),
      () => out.prefill(1, 0),
      () => out.toolBegin(1, 'f'),
      () => out.end(1, 'stop'),
    ]) {
      event();
      expect(out.haste).toBe(Haste.now);
      out.take();
    }
  });
});
