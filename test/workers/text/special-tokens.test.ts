import { describe, expect, it } from 'vitest';
import { SpecialTokens } from '../../../workers/text/special-tokens.ts';
import { seeded } from './support.ts';

const token = (id: number, content: string, flags: { lstrip?: boolean; rstrip?: boolean } = {}) => ({
  id,
  content,
  isSpecial: true,
  lstrip: false,
  rstrip: false,
  ...flags,
});

const specials = new SpecialTokens([
  token(1, '<|im_start|>'),
  token(2, '<|im_end|>'),
  token(3, '<|im_end|>>'),
  token(4, '<<|im_end|>'),
  token(5, '[-x]'),
  token(6, 'ab'),
  token(7, 'ba'),
  token(8, '§'),
  token(9, '😀'),
]);

const ids = (rendered: string): number[] => specials.mark(rendered).marks.map((mark) => mark.id);

describe('SpecialTokens', () => {
  it('finds the longest token at each place and says where it stands', () => {
    expect(specials.mark('a<|im_end|>>b<|im_start|>')).toEqual({
      text: 'a<|im_end|>>b<|im_start|>',
      marks: [
        { start: 1, end: 12, id: 3 },
        { start: 13, end: 25, id: 1 },
      ],
    });
  });

  it.each(specials.list.map(({ content }) => content))('leaves no trace of %s in a guarded text', (content) => {
    for (const text of [content, `x${content}y`, content + content, `<${content}>`, ` ${content} `]) {
      const marked = specials.mark(specials.guard(text));
      expect(marked).toEqual({ text, marks: [] });
    }
  });

  it('keeps the template’s tokens beside guarded text', () => {
    for (const text of ['|im_end|>', '>', '<', 'x', '§', ' >', 'a', 'b', '']) {
      const marked = specials.mark(`<|im_start|>${specials.guard(text)}<|im_end|>\n`);
      expect(marked.marks.map((mark) => mark.id)).toEqual([1, 2]);
      expect(marked.text).toBe(`<|im_start|>${text}<|im_end|>\n`);
    }
  });

  it('lets no token grow out of neighbouring texts, however they are cut, trimmed or joined', () => {
    for (const { content } of specials.list) {
      const units = [...content];
      for (let cut = 1; cut < units.length; cut++) {
        const left = units.slice(0, cut).join('');
        const right = units.slice(cut).join('');
        expect(ids(specials.guard(left) + specials.guard(right))).toEqual([]);
        expect(ids(specials.guard(`${left} \n`).trim() + specials.guard(`\n ${right}`).trim())).toEqual([]);
        // One half from the template, whose own tokens count.
        expect(ids(left + specials.guard(right))).toEqual(ids(left));
        expect(ids(specials.guard(left) + right)).toEqual(ids(right));
        for (let second = cut + 1; second < units.length; second++) {
          const middle = units.slice(cut, second).join('');
          const end = units.slice(second).join('');
          expect(ids(left + specials.guard(middle) + end)).toEqual([...ids(left), ...ids(end)]);
          expect(ids([left, middle, end].map((piece) => specials.guard(piece)).join(''))).toEqual([]);
        }
      }
    }
  });

  it('takes guard characters out of caller text, so that nobody can play with them', () => {
    const marked = specials.mark(`<|im_start|>${specials.guard('a\uFDD0<|im\uFDD0_end|>\uFDD1§\uFDD1')}`);
    expect(marked).toEqual({ text: '<|im_start|>a<|im_end|>§', marks: [{ start: 0, end: 12, id: 1 }] });
  });

  it('strips white space around tokens that ask for it, and only there', () => {
    const stripping = new SpecialTokens([token(1, '<a>', { rstrip: true }), token(2, '<b>', { lstrip: true })]);
    expect(stripping.mark(' x <a> \n y  <b> z').text).toBe(' x <a>y<b> z');
  });

  it('does nothing without tokens', () => {
    const none = new SpecialTokens([]);
    expect(none.mark(none.guard('<|im_end|>'))).toEqual({ text: '<|im_end|>', marks: [] });
  });

  it('guards random texts made of token pieces', () => {
    const seed = 991;
    const random = seeded(seed);
    const pieces = [
      '<',
      '|',
      'im_',
      'start',
      'end',
      '>',
      'a',
      'b',
      ' ',
      '§',
      '😀',
      '[',
      '-x]',
      '\n',
      '\uFDD0',
      '<|im_end|>',
    ];
    for (let round = 0; round < 3000; round++) {
      const texts = Array.from({ length: 3 }, () =>
        Array.from({ length: random.int(6) }, () => pieces[random.int(pieces.length)]).join(''),
      );
      const rendered = texts.map((text) => specials.guard(text)).join('');
      const marked = specials.mark(rendered);
      expect(marked.marks, `seed ${seed}, round ${round}`).toEqual([]);
      expect(marked.text, `seed ${seed}, round ${round}`).toBe(texts.join('').replaceAll('\uFDD0', ''));
    }
  });
});
