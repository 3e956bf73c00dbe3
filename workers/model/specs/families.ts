// The families we read, by the model_type of their config.json. Called by compile and by what checks it from outside.
import type { Config } from './config-reader.ts';
import { gemma2Spec, gemma3Spec } from './gemma.ts';
import { llamaSpec, mistralSpec, smolLm3Spec } from './llama.ts';
import { phi3Spec } from './phi.ts';
import { qwen2Spec, qwen3Spec } from './qwen.ts';
import type { ModelSpec } from './spec.ts';

const families: Readonly<Record<string, (config: Config, file: string) => ModelSpec>> = {
  gemma2: gemma2Spec,
  gemma3_text: gemma3Spec,
  llama: llamaSpec,
  mistral: mistralSpec,
  phi3: phi3Spec,
  qwen2: qwen2Spec,
  qwen3: qwen3Spec,
  smollm3: smolLm3Spec,
};

/** Throws an Error that names `file` and the field for an unknown family, and for what a known one cannot have. */
export function readSpec(config: Config, file: string): ModelSpec {
  const family = String(config['model_type']);
  const read = Object.hasOwn(families, family) ? families[family] : undefined;
  if (read !== undefined) return read(config, file);
  const known = Object.keys(families).join(', ');
  throw new Error(`${file}: model_type is ${JSON.stringify(config['model_type'])}; supported: ${known}`);
}
