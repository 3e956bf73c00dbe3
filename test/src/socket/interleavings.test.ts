// Properties of the way from engine to socket under random interleavings of creates, supersedes, resumes, cancels,
// acks, lanes, full sockets and disconnects. The far end keeps its own books and asserts at every frame; the seed is in the title.
import { describe, expect, it } from 'vitest';
import { Limits } from '../../../protocol/constants.ts';
import { Op } from '../../../protocol/messages.ts';
import type { LatencyClass } from '../../../protocol/messages.ts';
import { localCaller } from '../../../src/auth/caller.ts';
import type { Response } from '../../../src/responses/response.ts';
import type { ScriptEvent } from '../support/fake-engine.ts';
import { House, settle } from '../support/house.ts';
import { random } from '../../support/random.ts';
import type { TestClient } from '../support/house.ts';

/** What one client knows of one handle. */
interface Watched {
  response: string;
  seq: number;
  ackSeq: number;
  text: string;
  toolText: string;
  isDone: boolean;
  isCancelAsked: boolean;
  numCancelled: number;
}

class Peer {
  readonly client: TestClient;
  readonly handles = new Map<number, Watched>();
  readonly lanes = new Set<number>([0]);
  /** How eagerly this client acknowledges. */
  readonly eagerness: number;
  cancelsAsked = 0;
  cancelsAnswered = 0;

  constructor(client: TestClient, eagerness = 1) {
    this.client = client;
    this.eagerness = eagerness;
  }

  /** Reads what came and checks order, gaps, credit and silence after the end. */
  read(): void {
    for (const frame of this.client.take()) {
      if (frame[0] === Op.Created) this.#created(frame[3], frame[4]);
      else if (frame[0] === Op.Error && frame[3].param === 'heard') {
        // Ended before the client knew, and a later turn was built on it: refused instead of acknowledged.
        this.cancelsAnswered++;
      } else if (frame[0] === Op.Resumed) {
        if (frame[4] !== null) this.#created(frame[4], frame[5]);
      } else if (frame[0] === Op.State) expect(this.handles.get(frame[2])!.isDone, 'a state after done').toBe(false);
      else if (frame[0] === Op.Deltas) {
        expect(frame[2].length).toBeGreaterThan(0);
        for (const [handle, seq, text] of frame[2]) this.#event(handle, seq, false).text += text;
      } else if (frame[0] === Op.ToolDelta) this.#event(frame[2], frame[3], true).toolText += frame[5];
      else if (frame[0] === Op.ToolBegin || frame[0] === Op.ToolEnd) this.#event(frame[2], frame[3], true);
      else if (frame[0] === Op.Done) this.#event(frame[2], frame[3], true, true).isDone = true;
      else if (frame[0] === Op.Cancelled) {
        const watched = this.handles.get(frame[2])!;
        expect(watched.isDone).toBe(true);
        expect(frame[3]).toBe(watched.seq);
        this.cancelsAnswered++;
      }
    }
  }

  #created(handle: number, response: string): void {
    const known = this.handles.get(handle);
    if (known !== undefined) {
      expect(known.response).toBe(response);
      return;
    }
    this.handles.set(handle, {
      response,
      seq: 0,
      ackSeq: 0,
      text: '',
      toolText: '',
      isDone: false,
      isCancelAsked: false,
      numCancelled: 0,
    });
  }

  #event(handle: number, seq: number, isSingle: boolean, isEnd = false): Watched {
    const watched = this.handles.get(handle)!;
    expect(watched.isDone, 'an event after done').toBe(false);
    expect(seq).toBeGreaterThan(watched.seq);
    if (isSingle) expect(seq, 'a hole').toBe(watched.seq + 1);
    watched.seq = seq;
    if (!watched.isCancelAsked && !isEnd) expect(seq - watched.ackSeq).toBeLessThanOrEqual(Limits.creditEvents);
    return watched;
  }
}

function scriptOf(next: () => number): ScriptEvent[] {
  const script: ScriptEvent[] = [];
  const length = Math.floor(next() ** 3 * 900);
  let call = 0;
  while (script.length < length) {
    if (next() < 0.02) {
      script.push({ toolBegin: 'f', index: call });
      for (let piece = 0; piece < 4; piece++) script.push({ toolDelta: `${piece},`, index: call });
      script.push({ toolEnd: call++ });
    } else script.push(next() < 0.1 ? '' : `${['a', '世', '🙂', 'word '][Math.floor(next() * 4)]}`);
  }
  if (next() < 0.3) script.push({ text: 'held' });
  if (next() < 0.3) script.push({ end: 'length' });
  return script;
}

const classes: LatencyClass[] = ['voice', 'ide', 'chat', 'batch'];

describe('From engine to sockets', { timeout: 60_000 }, () => {
  it.each([11, 12, 13, 14, 15, 16])('keeps every promise in any interleaving (seed %i)', async (seed) => {
    const next = random(seed);
    const pick = <T>(list: readonly T[]): T | undefined => list[Math.floor(next() * list.length)];
    const ends = new Map<Response, number>();
    const house = new House({
      responses: { observer: { onEnded: (response) => void ends.set(response, (ends.get(response) ?? 0) + 1) } },
      socket: { busyResponses: 3 },
    });
    house.engine.script = () => scriptOf(next);
    const all: Response[] = [];
    const sessions = [0, 1, 2].map(() => house.sessions.open(localCaller, {}).session);
    let peers: Peer[] = [];
    let numRequests = 0;
    const actions: Record<string, (peer: Peer) => void> = {
      create: (peer) => {
        const session = next() < 0.4 ? pick(sessions) : undefined;
        // Sometimes an earlier requestId: in a session it may be another connection's response.
        const requestId = `r${next() < 0.2 ? Math.floor(next() * numRequests) : numRequests++}`;
        const options = { messages: [{ role: 'user' as const, content: 'Hi' }], class: pick(classes)! };
        const view = { states: next() < 0.3, sentences: next() < 0.3 };
        const message = { ...options, ...view, ...(session === undefined ? {} : { session }) };
        const supersede = next() < 0.5 ? 'lane' : 1 + Math.floor(next() * 40);
        const replaces = next() < 0.15 ? { supersede } : {};
        peer.client.push([Op.Create, pick([...peer.lanes])!, requestId, { ...message, ...replaces }]);
      },
      cancel: (peer) => {
        const handle = pick([...peer.handles.keys()]);
        if (handle === undefined) return;
        // Read first: what came before the cancel had to respect credit.
        peer.handles.get(handle)!.isCancelAsked = true;
        peer.cancelsAsked++;
        const isHeard = next() < 0.3 && !peer.handles.get(handle)!.isDone;
        peer.client.push(isHeard ? [Op.Cancel, 0, handle, 0] : [Op.Cancel, 0, handle]);
      },
      resume: (peer) => {
        const response = pick(all);
        if (response !== undefined) peer.client.push([Op.Resume, 0, 'w', { response: response.id, lastSeq: 0 }]);
      },
      ack: (peer) => {
        for (const [handle, watched] of peer.handles) {
          if (next() > peer.eagerness) continue;
          watched.ackSeq = Math.max(watched.ackSeq, Math.floor(watched.seq * (0.5 + next())));
          watched.ackSeq = Math.min(watched.ackSeq, watched.seq);
          peer.client.push([Op.Ack, 0, handle, watched.ackSeq]);
        }
      },
      lane: (peer) => {
        const lane = 1 + Math.floor(next() * 3);
        if (peer.lanes.has(lane)) peer.client.push([Op.CloseLane, lane]);
        else peer.client.push([Op.OpenLane, lane, {}]);
        if (!peer.lanes.delete(lane)) peer.lanes.add(lane);
      },
      full: (peer) => void (peer.client.buffered = Limits.bufferedBytes),
      drain: (peer) => peer.client.drain(),
      step: () => house.engine.step(),
      settle: () => undefined,
      drop: (peer) => {
        peers = peers.filter((other) => other !== peer);
        peer.client.drop(next() < 0.5 ? 1000 : 1006);
      },
    };
    const once = ['create', 'create', 'resume', 'ack', 'ack', 'ack', 'cancel', 'lane', 'full', 'drain', 'settle'];
    const weights = [...Array<string>(12).fill('step'), ...once];
    for (let round = 0; round < 2500; round++) {
      if (peers.length < 3) peers.push(new Peer(house.greeted(), next() < 0.5 ? 0.5 : 0.02));
      const peer = pick(peers)!;
      const name = next() < 0.004 ? 'drop' : pick(weights)!;
      actions[name]!(peer);
      house.nowMs += next() * 4;
      if (name === 'settle' || name === 'create') await settle();
      for (const other of peers) other.read();
      for (const watched of peer.handles.values()) {
        const response = house.responses.get(watched.response, localCaller);
        if (response !== undefined && !all.includes(response)) all.push(response);
      }
    }
    // Everybody reads on; nothing may be left over.
    for (let round = 0; round < 4000 && (house.responses.active > 0 || peers.some(hasOpen)); round++) {
      house.nowMs += 1000;
      house.sockets.tick();
      house.engine.step();
      for (const peer of peers) {
        peer.client.drain();
        peer.read();
        for (const [handle, watched] of peer.handles) {
          watched.ackSeq = watched.seq;
          peer.client.push([Op.Ack, 0, handle, watched.seq]);
        }
        peer.read();
      }
      await settle();
    }
    expect(house.responses.active).toBe(0);
    expect(all.length).toBeGreaterThan(50);
    for (const response of all) {
      expect(ends.get(response)).toBe(1);
      expect(response.numSubscribers).toBe(0);
    }
    const byId = new Map(all.map((response) => [response.id, response]));
    for (const peer of peers) {
      expect(peer.cancelsAnswered).toBe(peer.cancelsAsked);
      expect(peer.client.connection.outbox.unackedBytes).toBe(0);
      expect(peer.client.connection.outbox.numLive).toBe(0);
      for (const watched of peer.handles.values()) {
        const response = byId.get(watched.response)!;
        expect(watched.isDone).toBe(true);
        expect(watched.seq).toBe(response.log.head);
        expect(watched.text).toBe(response.text);
        expect(watched.toolText).toBe(response.toolCalls.map((call) => call.arguments).join(''));
      }
    }
    expect(house.errors).toEqual([]);
    house.stop();
  });

  it('keeps nothing for readers that stopped: frames and bytes stand still while the neighbours stream', () => {
    const house = new House();
    house.engine.script = () => Array.from({ length: 4000 }, (_, index) => `token${index} `);
    const stalled = Array.from({ length: 8 }, () => house.greeted());
    for (const client of stalled) {
      client.create('a');
      client.create('b');
      client.buffered = Limits.bufferedBytes;
      client.sendResult = 0;
      client.take();
    }
    const reader = new Peer(house.greeted());
    reader.client.create('mine');
    reader.read();
    const frames = stalled.map((client) => client.numFrames);
    for (let step = 0; step < 4001; step++) {
      house.nowMs += 20;
      house.engine.step();
      reader.read();
      const [handle, watched] = [...reader.handles][0]!;
      watched.ackSeq = watched.seq;
      reader.client.push([Op.Ack, 0, handle, watched.seq]);
    }
    expect([...reader.handles.values()][0]!.isDone).toBe(true);
    expect(stalled.map((client) => client.numFrames)).toEqual(frames);
    for (const client of stalled) {
      expect(client.connection.outbox.unackedBytes).toBe(0);
      client.sendResult = 1;
      client.drain();
      // All that was missed, merged into one frame of both handles, as far as credit goes.
      const missed = client.take();
      expect(missed).toHaveLength(1);
      expect(missed[0]![0] === Op.Deltas && missed[0]![2].map(([handle, seq]) => [handle, seq])).toEqual([
        [1, Limits.creditEvents],
        [2, Limits.creditEvents],
      ]);
    }
    house.stop();
  });
});

function hasOpen(peer: Peer): boolean {
  return [...peer.handles.values()].some((watched) => !watched.isDone);
}
