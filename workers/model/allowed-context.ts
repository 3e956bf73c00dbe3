// How many tokens a model's sequences may have. Called when a model is compiled, before anything is built for it.

const DEFAULT_CONTEXT = 4096;
const MIN_CONTEXT = 16;

/**
 * `wanted`, or without it 4,096 tokens or the model's own limit if that is shorter. Throws an Error that names both
 * numbers when the model was not trained for what is wanted: beyond its limit it would answer nonsense.
 */
export function allowedContext(own: number, wanted: number | null, name: string): number {
  if (wanted === null) return Math.min(own, DEFAULT_CONTEXT);
  if (!Number.isInteger(wanted) || wanted < MIN_CONTEXT) {
    throw new Error(`a context of ${wanted} tokens: at least ${MIN_CONTEXT} are needed`);
  }
  if (wanted <= own) return wanted;
  throw new Error(`${name}: a context of ${wanted} tokens, but the model has ${own}: set MAX_CONTEXT=${own} or less`);
}
