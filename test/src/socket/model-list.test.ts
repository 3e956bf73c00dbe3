// What clients are told of the models: which changes, to whom, how often.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { MODELS_WINDOW_MS } from '../../../protocol/constants.ts';
import { Op } from '../../../protocol/messages.ts';
import type { ModelInfo } from '../../../protocol/messages.ts';
import { fakeModel } from '../support/fake-engine.ts';
import { House } from '../support/house.ts';
import type { TestClient } from '../support/house.ts';

const second: ModelInfo = { ...fakeModel, id: 'second', aliases: [] };

let models: ModelInfo[];
let house: House;
let client: TestClient;

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  models = [fakeModel];
  house = new House({ socket: { models: () => models } });
  house.sockets.modelsChanged();
  vi.advanceTimersByTime(MODELS_WINDOW_MS);
  client = house.greeted();
});
afterEach(() => {
  house.stop();
  vi.useRealTimers();
});

function change(to: ModelInfo[]): void {
  models = to;
  house.sockets.modelsChanged();
}

describe('Models', () => {
  it('is told to everybody once, with the whole list, however many changes come together', () => {
    const other = house.greeted();
    change([fakeModel, second]);
    change([second]);
    change([second, fakeModel]);
    expect(client.take()).toEqual([]);
    vi.advanceTimersByTime(MODELS_WINDOW_MS);
    for (const each of [client, other]) expect(each.take()).toEqual([[Op.Models, 0, [second, fakeModel]]]);
    change([]);
    vi.advanceTimersByTime(MODELS_WINDOW_MS);
    expect(client.take()).toEqual([[Op.Models, 0, []]]);
  });

  it('is not told for changes that clients do not see', () => {
    change([{ ...fakeModel }]);
    vi.advanceTimersByTime(MODELS_WINDOW_MS);
    expect(client.take()).toEqual([]);
  });

  it('is told who was welcomed with a list that came and went', () => {
    change([fakeModel, second]);
    const other = house.greeted();
    change([fakeModel]);
    vi.advanceTimersByTime(MODELS_WINDOW_MS);
    expect(other.take()).toEqual([[Op.Models, 0, [fakeModel]]]);
  });

  it('is not told before hello, nor what the welcome said', () => {
    const silent = house.connect();
    change([fakeModel, second]);
    const other = house.greeted();
    vi.advanceTimersByTime(MODELS_WINDOW_MS);
    expect([silent.take(), other.take()]).toEqual([[], []]);
  });

  it('comes before a session with the new model is open', () => {
    change([fakeModel, second]);
    client.push([Op.OpenSession, 0, 'r1', {}]);
    expect(client.take().map(([op]) => op)).toEqual([Op.Models, Op.SessionOpened]);
    vi.advanceTimersByTime(MODELS_WINDOW_MS);
    expect(client.take()).toEqual([]);
  });

  it('is told to nobody after the end', () => {
    change([fakeModel, second]);
    house.stop();
    vi.advanceTimersByTime(MODELS_WINDOW_MS);
    expect(client.take()).toEqual([]);
  });
});
