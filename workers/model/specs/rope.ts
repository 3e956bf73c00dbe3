// Rotary positions as config.json has them: base and scaling. Called by the families' readers.
import type { ConfigReader } from './config-reader.ts';
import type { Rope, RopeScaling } from './spec.ts';

const POSITIONS_MAX = 1 << 30;
const known = ['default', 'linear', 'llama3', 'yarn', 'longrope', 'divisors'];

/** rope_theta and rope_scaling, or both in rope_parameters as newer exports have it. */
export function readRope(config: ConfigReader, defaultTheta = 10_000): Rope {
  const parameters = config.object('rope_parameters');
  const theta = config.positive('rope_theta', parameters?.get('rope_theta') ?? defaultTheta);
  return { theta, scaling: readScaling(config, parameters === null ? 'rope_scaling' : 'rope_parameters') };
}

/**
 * The scaling in the object `field`; null where the field is absent or asks for none. `divisors` is our own name for
 * what GGUF files hold of llama3.
 */
export function readScaling(config: ConfigReader, field: string): RopeScaling | null {
  const scaling = config.object(field);
  if (scaling === null) return null;
  const assumed = field === 'rope_scaling' ? undefined : 'default';
  const type = scaling.get('rope_type') ?? scaling.get('type') ?? assumed;
  switch (type) {
    case 'default':
      return null;
    case 'linear':
      return { type: 'linear', factor: scaling.positive('factor') };
    case 'divisors':
      return { type: 'divisors', divisors: scaling.positives('divisors') };
    case 'llama3':
      return readLlama3(scaling);
    case 'yarn':
      return readYarn(config, scaling);
    case 'longrope':
    case 'su':
      return readLongrope(config, scaling);
    default:
      return config.fail(field, `asks for ${JSON.stringify(type)}; supported: ${known.join(', ')}`);
  }
}

function readLlama3(scaling: ConfigReader): RopeScaling {
  const [lowFactor, highFactor] = [scaling.positive('low_freq_factor'), scaling.positive('high_freq_factor')];
  if (highFactor <= lowFactor) scaling.fail('high_freq_factor', `is not above low_freq_factor (${lowFactor})`);
  const originalPositions = scaling.natural('original_max_position_embeddings', POSITIONS_MAX);
  return { type: 'llama3', factor: scaling.positive('factor'), lowFactor, highFactor, originalPositions };
}

function readYarn(config: ConfigReader, scaling: ConfigReader): RopeScaling {
  const factor = scaling.positive('factor');
  if (factor < 1) scaling.fail('factor', `is ${factor}; at least 1 is needed`);
  const [fastTurns, slowTurns] = [scaling.positive('beta_fast', 32), scaling.positive('beta_slow', 1)];
  if (fastTurns <= slowTurns) scaling.fail('beta_fast', `is not above beta_slow (${slowTurns})`);
  for (const field of ['mscale', 'mscale_all_dim']) {
    if (scaling.get(field) !== undefined) scaling.fail(field, 'is not supported');
  }
  if (!scaling.flag('truncate', true)) scaling.fail('truncate', 'is false; only true is supported');
  const assumed = config.get('max_position_embeddings') as number | undefined;
  const originalPositions = scaling.natural('original_max_position_embeddings', POSITIONS_MAX, assumed);
  const attentionFactor = scaling.positive('attention_factor', 0.1 * Math.log(factor) + 1);
  return { type: 'yarn', factor, originalPositions, fastTurns, slowTurns, attentionFactor };
}

/** The factor for the attention follows from how much longer the model became, where it is not given. */
function readLongrope(config: ConfigReader, scaling: ConfigReader): RopeScaling {
  const inScaling = scaling.get('original_max_position_embeddings') !== undefined;
  const reader = inScaling ? scaling : config;
  const originalPositions = reader.natural('original_max_position_embeddings', POSITIONS_MAX);
  const longest = config.natural('max_position_embeddings', POSITIONS_MAX);
  const longer = inScaling ? scaling.positive('factor', longest / originalPositions) : longest / originalPositions;
  const assumed = longer <= 1 ? 1 : Math.sqrt(1 + Math.log(longer) / Math.log(originalPositions));
  const attentionFactor = scaling.positive('attention_factor', assumed);
  const [long, short] = [scaling.positives('long_factor'), scaling.positives('short_factor')];
  return { type: 'longrope', long, short, originalPositions, attentionFactor };
}
