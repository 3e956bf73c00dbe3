import { afterEach, describe, expect, it } from 'vitest';
import { Limits } from '../../protocol/constants.ts';
import { Op } from '../../protocol/messages.ts';
import { createMetrics } from '../../src/metrics.ts';
import { House } from './support/house.ts';

let house: House | null = null;
afterEach(() => house?.stop());

describe('Metrics', () => {
  it('count parking with its time, and resumes by what they came to', async () => {
    const metrics = createMetrics();
    house = new House({
      responses: { observer: metrics.observer },
      socket: { onResumed: (result) => metrics.onResumed(result) },
    });
    house.engine.script = () => Array.from({ length: 3000 }, (_, index) => `w${index} `);
    const client = house.greeted();
    client.push([Op.Create, 0, 'r', { messages: [{ role: 'user', content: 'Hi' }] }]);
    const created = client.take().find((frame) => frame[0] === Op.Created)!;
    for (let step = 0; step < Limits.creditEvents + Limits.parkBacklogEvents; step++) house.engine.step();
    house.nowMs += 2000;
    client.push([Op.Ack, 0, created[3] as number, Limits.creditEvents]);
    for (let seq = 2 * Limits.creditEvents; seq <= 1280; seq += Limits.creditEvents) {
      client.push([Op.Ack, 0, created[3] as number, seq]);
    }
    const other = house.greeted();
    other.push([Op.Resume, 0, 'a', { response: `resp_${'0'.repeat(32)}`, epoch: '0'.repeat(16), lastSeq: 3 }]);
    other.push([Op.Resume, 0, 'b', { response: created[4] as string, lastSeq: 0 }]);
    const text = await metrics.render({
      engines: [house.engine],
      embeddingInputs: () => 7,
      connections: () => ({ http: 0, websocket: 2 }),
      retained: () => ({ count: 0, bytes: 0 }),
      held: () => ({ responses: 1, sessions: 3 }),
    });
    expect(text).toContain('tokenwire_responses_parked_total{model="fake"} 1');
    expect(text).toContain('tokenwire_response_parked_seconds_sum{model="fake"} 2');
    expect(text).toContain('tokenwire_resume_total{result="unknown"} 1');
    expect(text).toContain('tokenwire_resume_total{result="live"} 1');
    expect(text).toContain('tokenwire_sessions 3');
    expect(text).toContain('tokenwire_embedding_inputs_waiting 7');
  });
});
