// Grammars that one instance of the library compiled and another one follows.
import { beforeAll, describe, expect, it } from 'vitest';
import { compileSpec } from '../../../workers/grammar/grammar-source.ts';
import { Grammars } from '../../../workers/grammar/grammars.ts';
import { GrammarInstance } from '../../../workers/grammar/instance.ts';
import { ImageSpace, type GrammarSpec } from '../../../workers/messages/grammar.ts';
import { FAKE_SHAPE } from '../../../workers/model/fake.ts';
import { isAllowed } from '../../../workers/sampling/token-mask.ts';
import { TextModel } from '../../../workers/text/text-model.ts';
import { seeded } from '../text/support.ts';

const text = TextModel.bytes();
const { vocabSize } = FAKE_SHAPE;
const none = { text: null, calls: [], mustCall: false, isParallel: true };
const schema = (value: unknown): GrammarSpec => ({
  ...none,
  text: { kind: 'schema', schema: JSON.stringify(value), param: 'p' },
});
const regex = (pattern: string): GrammarSpec => ({ ...none, text: { kind: 'regex', pattern, param: 'p' } });
const call = {
  name: 'look',
  schema: JSON.stringify({
    type: 'object',
    properties: { at: { type: 'string' }, n: { type: 'integer', minimum: 2 } },
  }),
  isStrict: true,
  param: 'p',
};
const forms: [name: string, spec: GrammarSpec][] = [
  ['any object', schema({ type: 'object' })],
  ['a list of choices', schema({ type: 'array', items: { enum: ['a', 'bc', 7] }, maxItems: 9 })],
  ['a recursive schema', schema({ $ref: '#/$defs/a', $defs: { a: { type: 'array', items: { $ref: '#/$defs/a' } } } })],
  ['a pattern', regex('([a-f]{2,4}-)*[0-9]+(x|é)')],
  ['required calls', { ...none, calls: [call], mustCall: true }],
  ['calls or text', { ...none, calls: [call] }],
];

let maker: GrammarInstance;
beforeAll(async () => {
  maker = await GrammarInstance.open(text, vocabSize);
  maker.base();
});

function imaged(spec: GrammarSpec, address: number = ImageSpace.start): GrammarSpec & { image: object } {
  const made = maker.compileAt(address, () => compileSpec(maker.xgrammar, maker.compiler, spec))!;
  return { ...spec, image: made.image };
}

/** Ids of a random answer, each with the mask before it. */
function walk(grammars: Grammars, spec: GrammarSpec, seed: number, length: number): { ids: number[]; masks: string[] } {
  const key = grammars.open(spec);
  const random = seeded(seed);
  const ids: number[] = [];
  const masks: string[] = [];
  while (ids.length < length) {
    const mask = grammars.mask(1, spec, key, ids, 0);
    if (mask === null) break;
    masks.push(Buffer.from(mask.buffer, mask.byteOffset, mask.byteLength).toString('base64'));
    const allowed = Array.from({ length: vocabSize }, (_, id) => id).filter((id) => isAllowed(mask, id));
    ids.push(allowed[random.int(allowed.length)]!);
  }
  grammars.release(1);
  return { ids, masks };
}

describe('An image of a grammar', () => {
  it.each(forms)('gives the masks of the grammar itself: %s', async (_name, spec) => {
    const grammars = await Grammars.load(text, vocabSize);
    const withImage = imaged(spec);
    for (let seed = 0; seed < 5; seed++) {
      const own = walk(grammars, spec, seed, 60);
      expect(own.masks.length).toBeGreaterThan(1);
      expect(walk(grammars, withImage, seed, 60), `seed ${seed}`).toEqual(own);
    }
  });

  it('lies beside others, and sequences change between them', async () => {
    const grammars = await Grammars.load(text, vocabSize);
    let address: number = ImageSpace.start;
    const placed = forms.map(([, spec]) => {
      const withImage = imaged(spec, address);
      address = withImage.image.address + withImage.image.bytes.length;
      return withImage;
    });
    const first = placed.map((spec, seed) => walk(grammars, spec, seed, 40));
    expect(placed.map((spec, seed) => walk(grammars, spec, seed, 40))).toEqual(first);
    expect(first).toEqual(forms.map(([, spec], seed) => walk(grammars, spec, seed, 40)));
  });

  it('may take the place of one that is still followed, which is put back when its sequence goes on', async () => {
    const grammars = await Grammars.load(text, vocabSize);
    const [one, two] = [imaged(regex('a{30}')), imaged(regex('b{30}'))];
    const keys = [grammars.open(one), grammars.open(two)];
    const allowed = (id: number, numSeen: number): string => {
      const letter = 'ab'[id]!.charCodeAt(0);
      const ids = Array.from({ length: numSeen }, () => letter);
      const mask = grammars.mask(id, [one, two][id]!, keys[id]!, ids, 0)!;
      return ['a', 'b'].filter((name) => isAllowed(mask, name.charCodeAt(0))).join('');
    };
    for (let step = 0; step < 20; step++) expect([allowed(0, step), allowed(1, step)]).toEqual(['a', 'b']);
  });

  it('stays what it is while thousands of states and grammars come and go', async () => {
    const grammars = await Grammars.load(text, vocabSize);
    const spec = imaged(schema({ type: 'object' }));
    const before = walk(grammars, spec, 3, 80);
    const other = schema({ type: 'array', items: { type: 'object' } });
    const key = grammars.open(other);
    for (let id = 2; id < 2500; id++) grammars.mask(id, other, key, text.encode('[{"a": [1, 2, {"b": "c"}]}'), 0);
    for (let i = 0; i < 80; i++) grammars.open(regex(`[a-z]{${i + 1}}`));
    expect(walk(grammars, spec, 3, 80)).toEqual(before);
  });

  it('is not used where the vocabulary is another one: there the grammar is compiled again', async () => {
    const shifted = {
      ...text,
      vocabSize,
      eosTokenIds: text.eosTokenIds,
      tokenBytes: (id: number) => Uint8Array.of(id),
    };
    const grammars = await Grammars.load(shifted, vocabSize);
    const spec = imaged(regex('ab'));
    const { digest } = (await GrammarInstance.open(shifted, vocabSize)).base();
    expect(digest).not.toBe(maker.base().digest);
    expect(walk(grammars, spec, 0, 2).masks).toEqual(walk(grammars, regex('ab'), 0, 2).masks);
  });

  it('is the same from an instance that was opened from the base of another', async () => {
    const again = await GrammarInstance.open(maker.base(), vocabSize);
    const [, spec] = forms[4]!;
    const { image } = again.compileAt(ImageSpace.start, () => compileSpec(again.xgrammar, again.compiler, spec))!;
    const first = imaged(spec).image as typeof image;
    expect(image).toEqual({ ...first, name: image.name, bytes: image.bytes });
    const grammars = await Grammars.load(text, vocabSize);
    expect(walk(grammars, { ...spec, image }, 5, 60)).toEqual(walk(grammars, spec, 5, 60));
  });

  it('is not made of what does not fit in', () => {
    const near = ImageSpace.end - 4096;
    expect(maker.compileAt(near, () => compileSpec(maker.xgrammar, maker.compiler, forms[0]![1]))).toBeNull();
    expect(imaged(regex('a')).image).toBeDefined();
  });
});
