import { describe, expect, it } from 'vitest';
import { SentenceScanner } from '../../../src/responses/sentence-scanner.ts';
import { random } from '../../support/random.ts';

/** The sentences told to have ended, and what is left. */
function split(text: string): string[] {
  const ends = new SentenceScanner().push(text);
  return [0, ...ends].map((start, index) => text.slice(start, ends[index] ?? text.length).trim());
}

describe('SentenceScanner', () => {
  it.each([
    ['One. Two! Three? Four', ['One.', 'Two!', 'Three?', 'Four']],
    ['Wait... What?! Yes', ['Wait...', 'What?!', 'Yes']],
    ['Well… Then go', ['Well…', 'Then go']],
    ['He said "Stop." Then he left', ['He said "Stop."', 'Then he left']],
    ['"Stop!" he said. Then', ['"Stop!" he said.', 'Then']],
    ['(It works.) Good. **Really.** Yes', ['(It works.)', 'Good.', '**Really.**', 'Yes']],
    ['你好！我是助手。你呢？好', ['你好！', '我是助手。', '你呢？', '好']],
    ['他说：“走吧。”然后走了。再见', ['他说：“走吧。”', '然后走了。', '再见']],
    ['好!再见? 行', ['好!', '再见?', '行']],
    ['Grüße 😀! Und 世界。Done', ['Grüße 😀!', 'Und 世界。', 'Done']],
    ['A title\nSome text\n\nMore', ['A title', 'Some text', 'More']],
    ['- one\n- two\n', ['- one', '- two', '']],
    ['नमस्ते। आप', ['नमस्ते।', 'आप']],
    ['ما هذا؟ نعم', ['ما هذا؟', 'نعم']],
  ])('ends the sentences of %j', (text, sentences) => {
    expect(split(text)).toEqual(sentences);
  });

  it.each([
    'Pi is 3.14 and e is 2.72 or so',
    'See www.example.com/a.b?q=1 for more',
    'Dr. Smith met Mrs. Jones and J. R. Smith',
    'Fruit, e.g. apples, i.e. round things etc. and so on',
    'See fig. 3 and No. 5',
    'The U.S. President',
    '1. First of all',
    'Open file.ts now',
    'Version 2.0.1 is out',
    'it ended... or so we thought',
    'Wie z.B. Äpfel',
  ])('sees no end in %j', (text) => {
    expect(new SentenceScanner().push(text)).toEqual([]);
  });

  it('tells an end only when it is certain, and then at once', () => {
    const scanner = new SentenceScanner();
    const told = [...'Yes. No! 3.5 是。B'].map((character) => scanner.push(character));
    // "Yes." waits for the N, "No!" for the space, "3.5 是。" for what follows the mark.
    const where = told.flatMap((ends, index) => ends.map((end) => [index, end]));
    expect(where).toEqual([
      [5, 4],
      [8, 8],
      [15, 15],
    ]);
  });

  it('counts UTF-16 units, an emoji as two', () => {
    expect(new SentenceScanner().push('😀 ok. 👩‍🚀 B')).toEqual([6]);
  });

  it('does not end a sentence twice or an empty one', () => {
    expect(split('\n\n \n')).toEqual(['']);
    expect(split('Hi.\n\n  \nYou')).toEqual(['Hi.', 'You']);
    expect(new SentenceScanner().push('. . . ... --- \n---\n "!" A')).toEqual([]);
  });

  it('tells the same ends however the text is cut (seed 31)', () => {
    const next = random(31);
    const pieces = [
      'Dr',
      '.',
      ' ',
      'A',
      'b',
      '3',
      '1',
      '?',
      '!',
      '…',
      '"',
      '”',
      '。',
      '！',
      '世',
      '😀',
      '\n',
      ')',
      'e.g',
      '*',
    ];
    for (let round = 0; round < 2000; round++) {
      let text = '';
      const length = 1 + Math.floor(next() * 40);
      for (let index = 0; index < length; index++) text += pieces[Math.floor(next() * pieces.length)];
      const whole = new SentenceScanner().push(text);
      const scanner = new SentenceScanner();
      const cut: number[] = [];
      const characters = [...text];
      while (characters.length > 0)
        cut.push(...scanner.push(characters.splice(0, 1 + Math.floor(next() * 6)).join('')));
      expect(cut, text).toEqual(whole);
      expect(whole, text).toEqual([...new Set(whole)].sort((a, b) => a - b));
      // Stable: more text takes nothing back.
      expect(new SentenceScanner().push(`${text} Xyz. Abc`).slice(0, whole.length), text).toEqual(whole);
    }
  });
});
