// Connections cut at any moment, on purpose and at random, each time resumed on a new one: every reader gets every
// event exactly once. The cut is placed by seed between any two frames that the server sends, so the client may have
// read less than was sent; what it had not read is lost with the connection.
import { describe, expect, it } from 'vitest';
import { Limits } from '../../../protocol/constants.ts';
import { Op } from '../../../protocol/messages.ts';
import type { ServerMessage, ViewOptions } from '../../../protocol/messages.ts';
import type { Response } from '../../../src/responses/response.ts';
import { SentenceScanner } from '../../../src/responses/sentence-scanner.ts';
import type { ScriptEvent } from '../support/fake-engine.ts';
import { House, settle } from '../support/house.ts';
import { random } from '../../support/random.ts';
import type { TestClient } from '../support/house.ts';

const TRIALS = Number(process.env['TRIALS'] ?? 2500);
const SEEDS = [41, 42, 43, 44, 45];

/** A client as the specification wants it: what it keeps to resume, and the answer it has put together. */
class Reader {
  client: TestClient;
  handle: number | null = null;
  lastSeq = 0;
  text = '';
  tools = '';
  ends: number[] = [];
  isDone = false;
  numCuts = 0;
  readonly #house: House;
  readonly #response: Response;
  readonly #next: () => number;
  readonly view: ViewOptions;
  /** Frames sent by the server and not read yet: the network. */
  #inFlight: ServerMessage[] = [];

  constructor(house: House, response: Response, next: () => number, view: ViewOptions) {
    this.#house = house;
    this.#response = response;
    this.#next = next;
    this.view = view;
    this.client = house.greeted();
    this.#resume();
  }

  /** The network breaks; what was on its way is lost. The client comes back. */
  cut(): void {
    this.numCuts++;
    this.client.drop([1001, 1006, 1012][Math.floor(this.#next() * 3)]!);
    this.#inFlight = [];
    this.handle = null;
    this.client = this.#house.greeted();
    this.#resume();
  }

  /** Reads some of what is on its way, and perhaps acknowledges it. */
  read(share: number): void {
    this.#inFlight.push(...this.client.take());
    const count = Math.ceil(this.#inFlight.length * share);
    for (const frame of this.#inFlight.splice(0, count)) this.#handle(frame);
    if (this.handle === null || this.#next() < 0.3) return;
    this.client.push([Op.Ack, 0, this.handle, Math.floor(this.lastSeq * (this.#next() < 0.2 ? 0.9 : 1))]);
  }

  #resume(): void {
    const { id: response, log } = this.#response;
    const from = { response, epoch: log.epoch, lastSeq: this.lastSeq };
    this.client.push([Op.Resume, 0, 'again', { ...from, ...this.view }]);
  }

  #handle(frame: ServerMessage): void {
    if (frame[0] === Op.Resumed) {
      expect(frame[3], 'recovered').toBe(true);
      this.handle = frame[4];
      // Done had arrived before the cut: only then nothing is left to come.
      expect(frame[4] === null).toBe(this.isDone);
    } else if (frame[0] === Op.Deltas) {
      for (const [handle, seq, text, offset, ends] of frame[2]) {
        expect(handle).toBe(this.handle);
        this.#advance(seq, false);
        if (this.view.offsets === true || this.view.sentences === true) expect(offset).toBe(this.text.length);
        else expect([offset, ends]).toEqual([undefined, undefined]);
        this.text += text;
        this.ends.push(...(ends ?? []));
      }
    } else if (frame[0] === Op.ToolBegin) {
      this.#advance(frame[3], true);
      this.tools += `${frame[6]}(`;
    } else if (frame[0] === Op.ToolDelta) {
      this.#advance(frame[3], true);
      this.tools += frame[5];
    } else if (frame[0] === Op.ToolEnd) {
      this.#advance(frame[3], true);
      this.tools += ')';
    } else if (frame[0] === Op.Done) {
      this.#advance(frame[3], true);
      this.isDone = true;
    } else expect(frame[0]).toBe(Op.State);
  }

  #advance(seq: number, isSingle: boolean): void {
    expect(this.isDone, 'an event after done').toBe(false);
    if (isSingle) expect(seq, 'a hole or a repetition').toBe(this.lastSeq + 1);
    else expect(seq).toBeGreaterThan(this.lastSeq);
    this.lastSeq = seq;
  }
}

function scriptOf(next: () => number): ScriptEvent[] {
  const script: ScriptEvent[] = [];
  const pieces = ['a', ' word', '.', ' The', '! ', '世界', '。', '🙂', '\n', '3.14', '', 'x'.repeat(300)];
  const length = 20 + Math.floor(next() ** 2 * 700);
  let call = 0;
  while (script.length < length) {
    if (next() < 0.01) {
      script.push({ toolBegin: 'f', index: call });
      for (let piece = 0; piece < 3; piece++) script.push({ toolDelta: `${piece},`, index: call });
      script.push({ toolEnd: call++ });
    } else script.push(pieces[Math.floor(next() * pieces.length)]!);
  }
  if (next() < 0.3) script.push({ text: 'held' });
  return script;
}

function toolsOf(response: Response): string {
  return response.toolCalls.map(({ name, arguments: text }) => `${name}(${text})`).join('');
}

describe('A connection cut at any moment', { timeout: 60_000 }, () => {
  it.each(SEEDS)('costs nobody an event and doubles none (seed %i)', async (seed) => {
    const next = random(seed);
    const house = new House({ socket: { busyResponses: next() < 0.5 ? 1 : 100 } });
    house.engine.script = () => scriptOf(next);
    let numCuts = 0;
    let numResponses = 0;
    const all: Response[] = [];
    while (numCuts < TRIALS / SEEDS.length) {
      numResponses++;
      const creator = house.greeted();
      creator.create('r');
      const response = [...creator.connection.outbox.live][0]!.response!;
      all.push(response);
      const plain: ViewOptions = {};
      const views = [plain, { offsets: true }, { sentences: true, states: true }];
      const readers = Array.from({ length: 1 + Math.floor(next() * 3) }, (_, index) => {
        return new Reader(house, response, next, views[(numResponses + index) % views.length]!);
      });
      creator.drop(1006);
      for (let round = 0; round < 5000 && !readers.every((reader) => reader.isDone); round++) {
        const generated = Math.floor(next() * 12);
        for (let step = 0; step < generated; step++) {
          house.nowMs += next() * 10;
          house.engine.step();
        }
        if (next() < 0.5) await settle();
        for (const reader of readers) {
          if (next() < 0.1) reader.client.buffered = Limits.bufferedBytes;
          reader.read(next() < 0.3 ? next() : 1);
          reader.client.drain();
          if (next() < 0.12) reader.cut();
        }
      }
      // Resume after the end: once more for everybody, with everything in hand.
      for (const reader of readers) {
        reader.cut();
        reader.read(1);
        await settle();
        reader.read(1);
        numCuts += reader.numCuts;
        expect(reader.isDone).toBe(true);
        expect(reader.handle).toBeNull();
        expect(reader.lastSeq).toBe(response.log.head);
        expect(reader.text).toBe(response.text);
        expect(reader.tools).toBe(toolsOf(response));
        expect(reader.ends).toEqual(reader.view.sentences === true ? new SentenceScanner().push(response.text) : []);
        reader.client.drop(1000);
      }
    }
    expect(house.responses.active).toBe(0);
    expect(house.errors).toEqual([]);
    // After eviction nobody is led to believe anything.
    house.nowMs += Limits.responseRetentionMs + 1;
    const late = house.greeted();
    for (const { id: response, log } of all) {
      late.push([Op.Resume, 0, response, { response, epoch: log.epoch, lastSeq: 1 }]);
      expect(late.take()).toEqual([[Op.Resumed, 0, response, false, null, response, null, null]]);
    }
    house.stop();
  });
});
