import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Limits } from '../../../protocol/constants.ts';
import { Op } from '../../../protocol/messages.ts';
import type { ServerMessage } from '../../../protocol/messages.ts';
import { localCaller } from '../../../src/auth/caller.ts';
import type { Response } from '../../../src/responses/response.ts';
import { House, settle, textOf } from '../support/house.ts';
import type { TestClient } from '../support/house.ts';

const FULL = Limits.creditEvents + Limits.parkBacklogEvents;
const LENGTH = 5000;

let house: House;
let client: TestClient;
let handle: number;
let response: Response;
let received: ServerMessage[] = [];
const words = (): string[] => Array.from({ length: LENGTH }, (_, index) => `w${index} `);
const steps = (count: number): void => {
  for (let step = 0; step < count; step++) house.engine.step();
};

/** Everything the client has received since the test began. */
const seen = (peer: TestClient): ServerMessage[] => {
  received.push(...peer.take());
  return received;
};
const lastSeqOf = (frames: ServerMessage[]): number =>
  Math.max(0, ...frames.flatMap((frame) => (frame[0] === Op.Deltas ? frame[2].map(([, seq]) => seq) : [])));

beforeEach(() => {
  received = [];
  house = new House();
  house.engine.script = words;
  client = house.greeted();
  client.push([Op.Create, 0, 'r', { messages: [{ role: 'user', content: 'Hi' }], states: true }]);
  const created = client.take().find((frame) => frame[0] === Op.Created)!;
  handle = created[0] === Op.Created ? created[3] : 0;
  response = house.responses.get(created[0] === Op.Created ? created[4] : '', localCaller)!;
});
afterEach(() => house.stop());

describe('Parking', { timeout: 60_000 }, () => {
  it('parks a response when its reader is a credit and a backlog behind, and not before', async () => {
    steps(FULL - 1);
    expect(house.engine.parkings).toEqual([]);
    steps(1);
    expect(house.engine.parkings).toEqual([['park', 1]]);
    expect(response.state.kind).toBe('parked');
    await settle();
    expect(client.takeOnly(Op.State).map((frame) => frame[3])).toEqual(['running', 'parked']);
    steps(50);
    expect(response.log.head).toBe(FULL);
  });

  it('parks as soon as credit is used up while others wait for a place', () => {
    house.engine.othersWaiting = 1;
    steps(Limits.creditEvents - 1);
    expect(house.engine.parkings).toEqual([]);
    steps(1);
    expect(house.engine.parkings).toEqual([['park', 1]]);
  });

  it('takes tokens that were under way and stays parked', () => {
    steps(FULL);
    house.engine.active.get(1)!.sink.onToken(1, 'late', house.nowMs);
    house.engine.onStepEnd?.(false);
    expect(response.state.kind).toBe('parked');
    expect(house.engine.parkings).toHaveLength(1);
  });

  it('goes on when the reader has caught up to half its credit, and loses nothing', () => {
    steps(FULL);
    const enough = FULL - Limits.creditEvents / 2 + 1;
    for (let lastSeq = 0; lastSeq < enough - 1;) {
      lastSeq = Math.min(lastSeqOf(seen(client)), enough - 1);
      client.push([Op.Ack, 0, handle, lastSeq]);
    }
    expect(house.engine.parkings).toHaveLength(1);
    client.push([Op.Ack, 0, handle, enough]);
    expect(house.engine.parkings.at(-1)).toEqual(['unpark', 1]);
    expect(response.state.kind).toBe('queued');
    for (let round = 0; round < LENGTH && !seen(client).some((frame) => frame[0] === Op.Done); round++) {
      steps(1);
      client.push([Op.Ack, 0, handle, lastSeqOf(seen(client))]);
    }
    expect(textOf(seen(client), handle)).toBe(words().join(''));
    expect(house.engine.parkings).toHaveLength(2);
  });

  it('does not park while one reader keeps up', () => {
    const reader = house.greeted();
    reader.push([Op.Resume, 0, 'w', { response: response.id, lastSeq: 0 }]);
    for (let step = 0; step < 2 * FULL; step++) {
      steps(1);
      reader.push([Op.Ack, 0, 1, response.log.head]);
    }
    expect(house.engine.parkings).toEqual([]);
    reader.drop(1006);
    steps(1);
    expect(house.engine.parkings).toEqual([['park', 1]]);
  });

  it('does not take a lost connection for a slow reader: in the grace time it runs on', () => {
    steps(FULL);
    client.drop(1006);
    expect(house.engine.parkings.at(-1)).toEqual(['unpark', 1]);
    steps(FULL);
    expect(response.log.head).toBe(2 * FULL);
    expect(house.engine.parkings).toHaveLength(2);
  });

  it('does not park for a reader that has no position', () => {
    response.subscribe({ notify: () => {} });
    steps(2 * FULL);
    expect(house.engine.parkings).toEqual([]);
  });

  it('cancels what has been parked too long; history keeps it as after a cancel', async () => {
    steps(FULL);
    house.nowMs += Limits.parkTimeoutMs - 1;
    house.sockets.tick();
    steps(1);
    expect(response.isEnded).toBe(false);
    house.nowMs += 1;
    house.sockets.tick();
    steps(1);
    expect(response.state).toMatchObject({ kind: 'ended', end: { reason: 'cancelled', error: null } });
    await settle();
  });

  it('can be cancelled while parked, and is not parked once it was cancelled', () => {
    steps(FULL);
    client.push([Op.Cancel, 0, handle]);
    steps(1);
    const frames = client.take();
    expect(frames.at(-1)).toEqual([Op.Cancelled, 0, handle, FULL + 1]);
    const second = client.create('r2');
    steps(FULL - 1);
    house.engine.cancel = () => {};
    client.push([Op.Cancel, 0, second]);
    steps(2);
    expect(house.engine.parkings).toEqual([['park', 1]]);
  });
});
