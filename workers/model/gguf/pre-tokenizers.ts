// How text is cut into words before byte pairs are merged, by the name that GGUF files have for it (tokenizer.ggml.pre).
// Called by byte-level.ts. The expressions are those of the models' own published tokenizers. A name that is not known
// here is refused: with another cut a model reads text it was not trained on, and nothing would tell.

const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const blanks = '\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+';
const symbols = ' ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*';
const words = '[^\\r\\n\\p{L}\\p{N}]?\\p{L}+';
const upper = '[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]';
const lower = '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]';
const lead = '[^\\r\\n\\p{L}\\p{N}]?';
const pathSymbols = ' ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*';

const llama3 = `${contractions}|${words}|\\p{N}{1,3}|${symbols}|${blanks}`;
const qwen2 = `${contractions}|${words}|\\p{N}|${symbols}|${blanks}`;
const tekken = `${lead}${upper}*${lower}+|${lead}${upper}+${lower}*|\\p{N}|${pathSymbols}|${blanks}`;
const gpt4o = `${lead}${upper}*${lower}+${contractions}?|${lead}${upper}+${lower}*${contractions}?|\\p{N}{1,3}|${pathSymbols}|${blanks}`;

export interface PreTokenizer {
  /** Expressions that cut one after the other. */
  splits: readonly string[];
  /** GPT-2's own expression cuts afterwards. */
  isGpt2: boolean;
  /** A word that is a token is that token, whatever the merges would make of it. */
  ignoresMerges: boolean;
  /** A prompt begins with the token for that, where the file does not say. */
  addsBegin: boolean;
}

const base: PreTokenizer = { splits: [], isGpt2: false, ignoresMerges: false, addsBegin: false };
const gpt2: PreTokenizer = { ...base, isGpt2: true };
const digits: PreTokenizer = { ...gpt2, splits: ['\\p{N}'] };
const byLlama: PreTokenizer = { ...base, splits: [llama3], ignoresMerges: true, addsBegin: true };
const byQwen: PreTokenizer = { ...base, splits: [qwen2] };

export const preTokenizers: Readonly<Record<string, PreTokenizer>> = {
  'gpt-2': gpt2,
  'phi-2': gpt2,
  mpt: gpt2,
  olmo: gpt2,
  smollm: digits,
  starcoder: digits,
  refact: digits,
  codeshell: digits,
  'command-r': digits,
  'llama-bpe': byLlama,
  llama3: byLlama,
  'llama-v3': byLlama,
  falcon3: byLlama,
  pixtral: byLlama,
  smollm3: byLlama,
  'smaug-bpe': { ...base, splits: [llama3] },
  dbrx: { ...base, splits: [llama3] },
  qwen2: byQwen,
  'deepseek-r1-qwen': byQwen,
  stablelm2: byQwen,
  megrez: byQwen,
  tekken: { ...base, splits: [tekken], ignoresMerges: true, addsBegin: true },
  'gpt-4o': { ...base, splits: [gpt4o] },
  default: { ...gpt2, splits: ['[\\p{P}\\$\\+<=>\\^~\\|]+'] },
};
