import { describe, expect, it } from 'vitest';
import { Detokenizer } from '../../../workers/text/detokenizer.ts';
import { TextModel } from '../../../workers/text/text-model.ts';
import { loadFiles, seeded, sentencepieceFiles } from './support.ts';

const bytes = TextModel.bytes();
const whole = new TextDecoder('utf-8', { ignoreBOM: true });

function pushAll(ids: readonly number[], text = bytes): string[] {
  const detokenizer = new Detokenizer(text);
  return [...ids.map((id) => detokenizer.push(id)), detokenizer.finish()];
}

describe('Detokenizer', () => {
  it('holds the bytes of a character back until it is whole', () => {
    const ids = Array.from(new TextEncoder().encode('a😀你'));
    expect(pushAll(ids)).toEqual(['a', '', '', '', '😀', '', '', '你', '']);
  });

  it('shows broken bytes as soon as they cannot become a character', () => {
    expect(pushAll([0xe4, 0x41])).toEqual(['', '\uFFFDA', '']);
    expect(pushAll([0xff])).toEqual(['\uFFFD', '']);
    expect(pushAll([0xe0, 0x80])).toEqual(['', '\uFFFD\uFFFD', '']);
    expect(pushAll([0xf0, 0x9f])).toEqual(['', '', '\uFFFD']);
  });

  it('has no text for special tokens and ids outside the vocabulary', () => {
    expect(pushAll([256, 257, 9999, -1])).toEqual(['', '', '', '', '']);
  });

  it('lets a special token pass in the middle of a character', () => {
    expect(pushAll([0xe4, 256, 0xbd, 0xa0]).join('')).toBe('你');
  });

  it('keeps a byte order mark, as any other character', () => {
    expect(pushAll([0xef, 0xbb, 0xbf, 0x61]).join('')).toBe('\uFEFFa');
  });

  it('joined, equals TextDecoder for random bytes, whenever it is taken apart and rebuilt', () => {
    const seed = 4711;
    const random = seeded(seed);
    const pieces = ['😀', '你好', 'é', 'abc', '\uFEFF', '👩‍👩‍👧', '\u{10FFFF}', 'ß'].map((text) =>
      new TextEncoder().encode(text),
    );
    const edges = [
      0x7f, 0x80, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xed, 0xef, 0xf0, 0xf4, 0xf5, 0xff, 0x9f, 0xa0, 0x8f, 0x90,
    ];
    for (let round = 0; round < 4000; round++) {
      const ids: number[] = [];
      for (let n = random.int(12); n >= 0; n--) {
        const kind = random.int(4);
        if (kind === 0) ids.push(random.int(256));
        else if (kind === 1) ids.push(edges[random.int(edges.length)] ?? 0);
        else {
          const piece = Array.from(pieces[random.int(pieces.length)] ?? []);
          ids.push(...(kind === 2 ? piece : piece.slice(0, random.int(piece.length + 1))));
        }
      }
      let detokenizer = new Detokenizer(bytes);
      let text = '';
      for (const id of ids) {
        text += detokenizer.push(id);
        if (random.int(3) === 0) detokenizer = new Detokenizer(bytes, structuredClone(detokenizer.snapshot()));
      }
      text += detokenizer.finish();
      expect(text, `seed ${seed}, round ${round}: ${ids.join(' ')}`).toBe(whole.decode(Uint8Array.from(ids)));
    }
  });

  it('drops the one space before the first word of a sentencepiece answer, also after a move', () => {
    const model = loadFiles(sentencepieceFiles());
    const ids = model.encode('hello world 你');
    expect(pushAll(ids, model).join('')).toBe('hello world 你');
    let moved = new Detokenizer(model);
    const texts = ids.map((id) => {
      moved = new Detokenizer(model, structuredClone(moved.snapshot()));
      return moved.push(id);
    });
    expect(texts.join('')).toBe('hello world 你');
  });
});
