// Reads names of the fake model: `fake:` or `fake:stepMs=2,prefillUs=5,faults=1` (in MODEL, where a comma separates
// models, with semicolons). Called by compile.
import type { CompiledModel } from '../messages/models.ts';
import { allowedContext } from './allowed-context.ts';
import { FAKE_EOS, FAKE_SHAPE } from './fake.ts';

const PREFIX = 'fake:';

/** Null when the name is not a fake model's. Throws an Error naming a setting that is unknown or no number. */
export function parseFakeModel(name: string, maxContext: number | null): CompiledModel | null {
  if (!name.startsWith(PREFIX)) return null;
  const settings = { stepMs: 0, prefillUs: 0, verifyCost: 1, faults: 0, dies: 0 };
  for (const pair of name.slice(PREFIX.length).split(/[,;]/).filter(Boolean)) {
    const [key = '', text = ''] = pair.split('=');
    const value = Number(text);
    if (!Object.hasOwn(settings, key)) throw new Error(`${name}: unknown setting "${key}" of the fake model`);
    if (text === '' || !(value >= 0 && value < Infinity))
      throw new Error(`${name}: ${key} is "${text}", no number ≥ 0`);
    settings[key as keyof typeof settings] = value;
  }
  const maxPositions = allowedContext(FAKE_SHAPE.maxPositions, maxContext, name);
  return {
    kind: 'fake',
    products: 'blocks',
    id: 'fake',
    shape: { ...FAKE_SHAPE, maxPositions },
    decodePath: '',
    prefillPath: '',
    verifyGraphs: [],
    textDir: '',
    eosTokenIds: [FAKE_EOS],
    quantization: 'none',
    kvDivergence: 0,
    weightsBytes: 0,
    origin: 'built in',
    info: {
      id: 'fake',
      aliases: [],
      contextLength: maxPositions,
      preset: {},
      tools: true,
      note: 'A stand-in without weights, for tests and benches.',
    },
    fake: {
      stepMs: settings.stepMs,
      prefillUsPerToken: settings.prefillUs,
      verifyCost: settings.verifyCost,
      faults: settings.faults > 0,
      ...(settings.dies > 0 ? { dies: true } : {}),
    },
  };
}
