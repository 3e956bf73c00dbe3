// Everything textual about one model: text → ids, conversation → prompt ids, id → bytes. One instance per thread,
// shared by all sequences; read-only after loading. Engine workers and the CPU pool hold it; answer-stream.ts reads
// its byte table on every token.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ServiceError } from '../../protocol/errors.ts';
import type { PromptInput } from '../messages/requests.ts';
import { byteEncoder, byteEosId, byteSpecials, byteTemplate, byteTokenBytes } from './byte-text.ts';
import type { CallSyntax } from './call-syntax.ts';
import { ChatTemplate, type TemplateSources } from './chat-template.ts';
import { EncodedPieces } from './encoded-pieces.ts';
import { tokenLabel } from './logprob-stream.ts';
import { PlainTokenizer, specialTokensOf, type PlainEncoder, type TokenizerJson } from './plain-tokenizer.ts';
import { encodeChat, type EncodedPrompt } from './prompt.ts';
import type { SpecialTokens } from './special-tokens.ts';
import { dropsFirstSpace, tokenBytesOf, type TokenBytes } from './token-bytes.ts';

interface TextParts {
  plain: PlainEncoder;
  specials: SpecialTokens;
  bytes: TokenBytes;
  eosTokenIds: ReadonlySet<number>;
  template: ChatTemplate | null;
  dropsFirstSpace: boolean;
}

type Json = Record<string, unknown>;

export class TextModel {
  /** One more than the highest id that has a text; the logits of a model may be wider. */
  readonly vocabSize: number;
  readonly eosTokenIds: ReadonlySet<number>;
  /** Tools can be shown to the model, and its calls be understood. */
  readonly supportsTools: boolean;
  /** How it writes calls; null without tools. */
  readonly callSyntax: CallSyntax | null;
  /** False for models without a chat template: they only take token ids. */
  readonly supportsChat: boolean;
  /** The one space that sentencepiece writes before an answer's first word is not part of the answer. */
  readonly dropsFirstSpace: boolean;
  readonly #parts: TextParts;
  readonly #pieces = new EncodedPieces();

  private constructor(parts: TextParts) {
    this.#parts = parts;
    this.vocabSize = parts.bytes.numIds;
    this.eosTokenIds = parts.eosTokenIds;
    this.supportsTools = parts.template?.supportsTools ?? false;
    this.callSyntax = parts.template?.callSyntax ?? null;
    this.supportsChat = parts.template !== null;
    this.dropsFirstSpace = parts.dropsFirstSpace;
  }

  /**
   * Reads tokenizer.json, tokenizer_config.json, chat_template.jinja and the config files of a model directory.
   * Throws an Error that names the file when one is missing or unusable.
   */
  static load(dir: string): TextModel {
    const tokenizer = readJson(dir, 'tokenizer.json');
    if (tokenizer === null) throw new Error(`tokenizer.json not found in ${dir}`);
    const json = tokenizer as unknown as TokenizerJson;
    const config = readJson(dir, 'tokenizer_config.json') ?? {};
    const specials = specialTokensOf(json);
    const names = specialNames(config);
    const sources = templateSources(dir, config);
    const template = sources === null ? null : new ChatTemplate(sources, names, specials);
    return new TextModel({
      plain: new PlainTokenizer(json, config, specials),
      specials,
      bytes: tokenBytesOf(json, specials, template?.callSyntax?.markers),
      eosTokenIds: eosIds(dir, names, specials),
      template,
      dropsFirstSpace: dropsFirstSpace(json),
    });
  }

  /** The fake model's text: 256 byte tokens, special ids 256 to 259, end of turn 257. */
  static bytes(source: string = byteTemplate): TextModel {
    return new TextModel({
      plain: byteEncoder,
      specials: byteSpecials,
      bytes: byteTokenBytes(),
      eosTokenIds: new Set([byteEosId]),
      template: new ChatTemplate({ default: source }, {}, byteSpecials),
      dropsFirstSpace: false,
    });
  }

  /** Ids of a caller's text; never a special id, whatever the text says. */
  encode(text: string): number[] {
    return this.#parts.plain.encode(text, 'first');
  }

  /**
   * Ids of a request's prompt, at most maxTokens of them. `tenant`: whose texts are remembered, to be encoded once; null
   * remembers nothing.
   * Throws ServiceError invalid_request or context_too_long.
   */
  encodePrompt(input: PromptInput, maxTokens: number, tenant: string | null = null): EncodedPrompt {
    if (input.kind === 'chat') {
      const { template, specials, plain, bytes } = this.#parts;
      if (template === null) {
        throw new ServiceError('invalid_request', 'this model has no chat template', { param: 'messages' });
      }
      const known = tenant === null ? null : this.#pieces.of(tenant);
      return encodeChat({ template, specials, plain, bytes, known }, input, maxTokens);
    }
    const { tokenIds } = input;
    if (tokenIds.length === 0) throw new ServiceError('invalid_request', 'prompt is empty', { param: 'prompt' });
    const wrong = tokenIds.find((id) => !Number.isInteger(id) || id < 0 || id >= this.vocabSize);
    if (wrong !== undefined) {
      throw new ServiceError('invalid_request', `${wrong} is not a token id of this model`, { param: 'prompt' });
    }
    if (tokenIds.length > maxTokens) {
      throw new ServiceError('context_too_long', `prompt has ${tokenIds.length} tokens, at most ${maxTokens} fit`, {
        param: 'prompt',
      });
    }
    return { tokenIds, droppedMessages: input.kind === 'encoded' ? input.droppedMessages : 0 };
  }

  /** Bytes of a token, empty for special tokens. A view: do not write. */
  tokenBytes(id: number): Uint8Array {
    return this.#parts.bytes.bytesOf(id);
  }

  /** A token as people read it, with its bytes: special tokens have a name and no bytes. */
  tokenName(id: number): [token: string, bytes: number[] | null] {
    const bytes = this.tokenBytes(id);
    if (bytes.length > 0) return [this.tokenText(id) ?? tokenLabel(bytes), Array.from(bytes)];
    return [this.#parts.specials.byId.get(id)?.content ?? `<${id}>`, null];
  }

  /** Text of a token whose bytes are whole characters ('' for special tokens), else null. */
  tokenText(id: number): string | null {
    return this.#parts.bytes.textOf(id);
  }

  /** Text of ids without special tokens; for people and tests, answers go through AnswerStream. */
  decode(ids: ArrayLike<number>): string {
    return this.#parts.bytes.decode(ids);
  }

  isSpecial(id: number): boolean {
    return this.#parts.specials.byId.has(id);
  }

  /** Special and other added tokens: what callers' text can never become. */
  get specialTokens(): readonly { id: number; content: string }[] {
    return this.#parts.specials.list;
  }
}

function readJson(dir: string, name: string): Json | null {
  const path = join(dir, name);
  if (!existsSync(path)) return null;
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as Json;
  } catch (error) {
    throw new Error(`${path} is not valid JSON`, { cause: error });
  }
}

/** The names templates use for special tokens, e.g. bos_token; a value is a string or an object with its content. */
function specialNames(config: Json): Record<string, string> {
  const names: Record<string, string> = {};
  for (const name of ['bos_token', 'eos_token', 'unk_token', 'pad_token', 'sep_token', 'cls_token', 'mask_token']) {
    const value = config[name];
    const content = typeof value === 'object' && value !== null ? (value as Json).content : value;
    if (typeof content === 'string') names[name] = content;
  }
  return names;
}

function eosIds(dir: string, names: Record<string, string>, specials: SpecialTokens): Set<number> {
  const ids = new Set<number>();
  for (const file of ['generation_config.json', 'config.json']) {
    const value = readJson(dir, file)?.eos_token_id;
    for (const id of Array.isArray(value) ? (value as unknown[]) : [value]) if (typeof id === 'number') ids.add(id);
  }
  const named = specials.list.find((token) => token.content === names.eos_token);
  if (named !== undefined) ids.add(named.id);
  return ids;
}

/** chat_template.jinja wins over the config, where it is one template or a list of named ones. */
function templateSources(dir: string, config: Json): TemplateSources | null {
  const path = join(dir, 'chat_template.jinja');
  if (existsSync(path)) return { default: readFileSync(path, 'utf8') };
  const value = config.chat_template;
  if (typeof value === 'string') return { default: value };
  if (!Array.isArray(value)) return null;
  const named = new Map((value as { name: string; template: string }[]).map((one) => [one.name, one.template]));
  const byDefault = named.get('default') ?? named.values().next().value;
  if (byDefault === undefined) return null;
  const toolUse = named.get('tool_use');
  return toolUse === undefined ? { default: byDefault } : { default: byDefault, toolUse };
}
