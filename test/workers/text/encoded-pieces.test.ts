import { describe, expect, it } from 'vitest';
import { EncodedPieces, TenantPieces } from '../../../workers/text/encoded-pieces.ts';
import { TextModel } from '../../../workers/text/text-model.ts';
import { chat, defaultTextDir, seeded } from './support.ts';

const ids = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

describe('TenantPieces', () => {
  it('gives back what was added, and nothing for other texts', () => {
    const pieces = new TenantPieces();
    pieces.add('a text', [1, 2, 3]);
    expect(pieces.get('a text')).toEqual([1, 2, 3]);
    expect(pieces.get('a text ')).toBeUndefined();
  });

  it('forgets what was asked for longest ago when its memory is full', () => {
    const pieces = new TenantPieces(20_000);
    for (const key of ['first', 'second']) pieces.add(key, ids(100));
    for (let i = 0; i < 100; i++) {
      pieces.add(`more ${i}`, ids(100));
      expect(pieces.get('first')).toHaveLength(100);
    }
    expect(pieces.get('second')).toBeUndefined();
    expect(pieces.get('more 99')).toHaveLength(100);
  });

  it('never holds more than its limit, whatever comes', () => {
    const SEED = 20261123;
    const random = seeded(SEED);
    const limit = 50_000;
    const pieces = new TenantPieces(limit);
    for (let i = 0; i < 3000; i++) {
      const key = `${i} ${'x'.repeat(random.int(2000))}`;
      pieces.add(key, ids(random.int(300)));
      expect(pieces.bytes, `seed ${SEED}, piece ${i}`).toBeLessThanOrEqual(limit);
    }
    expect(pieces.bytes).toBeGreaterThan(limit / 2);
  });

  it('does not give up everything for one long text', () => {
    const pieces = new TenantPieces(100_000);
    pieces.add('short', [1]);
    pieces.add('x'.repeat(40_000), ids(10_000));
    expect(pieces.get('short')).toEqual([1]);
    expect(pieces.get('x'.repeat(40_000))).toBeUndefined();
  });
});

describe('EncodedPieces', () => {
  it('shows no tenant what another one wrote', () => {
    const pieces = new EncodedPieces();
    pieces.of('acme').add('a secret', [1]);
    expect(pieces.of('other').get('a secret')).toBeUndefined();
    expect(pieces.of('acme').get('a secret')).toEqual([1]);
  });

  it('remembers so many tenants, those that asked last', () => {
    const pieces = new EncodedPieces(2);
    for (const tenant of ['a', 'b', 'a', 'c']) pieces.of(tenant).add(`of ${tenant}`, [1]);
    expect(pieces.of('a').get('of a')).toEqual([1]);
    expect(pieces.of('b').get('of b')).toBeUndefined();
  });
});

describe('TextModel', () => {
  it('gives the same ids again, whatever callers did with the first', () => {
    const text = TextModel.load(defaultTextDir);
    const prompt = chat([{ role: 'user', content: 'What is the capital of France?' }]);
    const first = text.encodePrompt(prompt, 100, 'acme').tokenIds;
    const again = text.encodePrompt(prompt, 100, 'acme').tokenIds;
    expect(again).toEqual(first);
    // Whoever gets the ids may change them.
    again.push(1);
    first.length = 0;
    expect(text.encodePrompt(prompt, 100, 'acme').tokenIds).toEqual(text.encodePrompt(prompt, 100).tokenIds);
  });
});
