import { describe, expect, it } from 'vitest';
import { defaultSampling } from '../../../protocol/sampling.ts';
import { localCaller } from '../../../src/auth/caller.ts';
import { lastNumber, QUEUED_AFTER_MS, ResponseEventRenderer } from '../../../src/dialects/response-events.ts';
import { outputItems, responseObject } from '../../../src/dialects/response-object.ts';
import { Responses } from '../../../src/responses/registry.ts';
import { FakeEngine, type ScriptEvent } from '../support/fake-engine.ts';
import { random } from '../../support/random.ts';

interface Rendered {
  type: string;
  sequence_number: number;
  [field: string]: unknown;
}

function setUp(script: ScriptEvent[], waitMs = 0) {
  let nowMs = 1_000_000;
  const engine = new FakeEngine();
  engine.now = () => nowMs;
  engine.script = () => [...script];
  const responses = new Responses({ now: () => nowMs });
  engine.onStepEnd = () => responses.publish();
  const response = responses.create(engine, localCaller, {
    session: null,
    class: 'chat',
    tools: [],
    sampling: defaultSampling,
    prompt: { kind: 'tokens', tokenIds: [1, 2, 3] },
  });
  nowMs += waitMs;
  return { engine, response, pass: (ms: number) => void (nowMs += ms) };
}

/** Events as parsed from the stream's bytes, each checked for its form. */
function parse(stream: string): Rendered[] {
  const blocks = stream.split('\n\n');
  expect(blocks.pop()).toBe('');
  return blocks.map((block) => {
    const match = /^event: (.+)\ndata: (.+)$/.exec(block)!;
    const data = JSON.parse(match[2]!) as Rendered;
    expect(data.type).toBe(match[1]);
    return data;
  });
}

const render = (renderer: ResponseEventRenderer, limit = Infinity): Rendered[] => parse(renderer.next(limit));
const types = (events: Rendered[]): string[] => events.map((event) => event.type);

/** A random answer: text, calls with arguments in pieces, text again, and any end. */
function randomScript(next: () => number): ScriptEvent[] {
  const script: ScriptEvent[] = [];
  let numCalls = 0;
  for (let part = 0; part < 1 + next() * 5; part++) {
    if (next() < 0.6) {
      for (let i = 0; i < 1 + next() * 8; i++) script.push(next() < 0.1 ? '' : `w${Math.floor(next() * 100)} é🙂`);
    } else {
      const index = numCalls++;
      script.push({ toolBegin: `f${index}`, index });
      for (let i = 0; i < next() * 4; i++) script.push({ toolDelta: '{"a":1}'.slice(i, i + 2), index });
      if (next() < 0.9) script.push({ toolEnd: index });
    }
  }
  const ends = ['stop', 'length', 'tool_calls', 'cancelled', 'error'] as const;
  script.push({ end: ends[Math.floor(next() * ends.length)]! });
  return script;
}

describe('ResponseEventRenderer', () => {
  it('gives every event once, whatever the cuts, the live steps and starting_after', () => {
    const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
    const next = random(seed);
    for (let trial = 0; trial < 300; trial++) {
      const { engine, response } = setUp(randomScript(next), next() < 0.3 ? QUEUED_AFTER_MS : 0);
      const live = new ResponseEventRenderer(response);
      const events: Rendered[] = [];
      let reader = new ResponseEventRenderer(response);
      const pieces: Rendered[] = [];
      while (!response.isEnded) {
        for (let steps = next() * 6; steps > 0 && !response.isEnded; steps--) engine.step();
        events.push(...render(live));
        pieces.push(...render(reader, 1 + Math.floor(next() * 5)));
        // The connection is lost; another one goes on behind the last event that arrived, perhaps after losing some.
        if (next() < 0.5) {
          pieces.length -= Math.floor(next() * Math.min(4, pieces.length + 1));
          reader = new ResponseEventRenderer(response, pieces.at(-1)?.sequence_number ?? -1);
        }
      }
      events.push(...render(live));
      pieces.push(...render(reader));
      const where = `seed ${seed} trial ${trial}`;
      expect(
        events.map((event) => event.sequence_number),
        where,
      ).toEqual(events.map((_, index) => index));
      expect(pieces, where).toEqual(events);
      expect(render(new ResponseEventRenderer(response)), where).toEqual(events);
      expect(lastNumber(response), where).toBe(events.length - 1);
      const after = Math.floor(next() * (events.length + 2)) - 1;
      expect(render(new ResponseEventRenderer(response, after)), where).toEqual(events.slice(after + 1));
      assertConsistent(events, response, where);
    }
  });

  it('says nothing of the queue until it is certain, and then always the same', () => {
    const { engine, response, pass } = setUp(['a']);
    const renderer = new ResponseEventRenderer(response);
    pass(QUEUED_AFTER_MS - 1);
    expect(render(renderer)).toEqual([]);
    pass(1);
    const waiting = render(renderer);
    expect(types(waiting)).toEqual(['response.created', 'response.queued']);
    expect(waiting[0]).toMatchObject({ response: { status: 'queued', output: [], usage: null } });
    pass(60_000);
    engine.run();
    const rest = render(renderer);
    expect(types(rest)[0]).toBe('response.in_progress');
    expect(render(new ResponseEventRenderer(response))).toEqual([...waiting, ...rest]);
    const quick = setUp(['a']);
    quick.engine.step();
    quick.pass(60_000);
    expect(types(render(new ResponseEventRenderer(quick.response))).slice(0, 2)).toEqual([
      'response.created',
      'response.in_progress',
    ]);
  });

  it('leaves in_progress out when the response ended in the queue', () => {
    const { engine, response } = setUp(['a'], QUEUED_AFTER_MS);
    response.cancel();
    engine.step();
    const events = render(new ResponseEventRenderer(response));
    expect(types(events)).toEqual(['response.created', 'response.queued', 'response.incomplete']);
    expect(events.at(-1)).toMatchObject({ response: { status: 'cancelled', output: [] } });
  });

  it('does not say that arguments are done when they were cut off', () => {
    const { engine, response } = setUp([
      { toolBegin: 'look', index: 0 },
      { toolDelta: '{"a', index: 0 },
      { end: 'length' },
    ]);
    engine.run();
    const events = render(new ResponseEventRenderer(response));
    expect(types(events)).not.toContain('response.function_call_arguments.done');
    expect(events.at(-2)).toMatchObject({
      type: 'response.output_item.done',
      item: { status: 'incomplete', arguments: '{"a' },
    });
  });
});

/** The events tell the same story as the object at the end. */
function assertConsistent(events: Rendered[], response: Parameters<typeof outputItems>[0], where: string): void {
  const items = new Map<number, unknown>();
  const deltas = new Map<number, string>();
  for (const event of events) {
    const index = event.output_index as number;
    if (event.type === 'response.output_item.added') {
      expect(index, where).toBe(items.size);
      items.set(index, event.item);
    }
    if (event.type.endsWith('.delta')) deltas.set(index, (deltas.get(index) ?? '') + (event.delta as string));
    if (event.type === 'response.output_text.done') expect(event.text, where).toBe(deltas.get(index));
    if (event.type === 'response.function_call_arguments.done') {
      expect(event.arguments, where).toBe(deltas.get(index) ?? '');
    }
    if (event.type === 'response.output_item.done') items.set(index, event.item);
  }
  expect([...items.values()], where).toEqual(outputItems(response));
  expect(events.at(-1)?.response, where).toEqual(JSON.parse(JSON.stringify(responseObject(response))));
}
