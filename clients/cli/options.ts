// Command line of the terminal chat → options, or one clear line about what is wrong.

export interface ChatOptions {
  url: string;
  model: string | null;
  system: string | null;
  temperature: number | null;
  maxTokens: number | null;
  key: string | null;
  wantsHelp: boolean;
}

export const DEFAULT_URL = 'ws://127.0.0.1:8080';

export const help = `Chat with a Tokenwire server in the terminal.

  npm run chat -- [options]
  echo "What is the capital of France?" | npm run chat

  --url URL            server, default ${DEFAULT_URL}
  --model NAME         model id or alias, default the server's first
  --system TEXT        system prompt
  --temperature N      0 to 2, default the model's preset
  --max-tokens N       longest answer, default the model's preset
  --key KEY            API key, default the environment variable API_KEY
  --help               this text

Ctrl-C stops the answer. At the prompt, Ctrl-C twice or Ctrl-D leaves.
`;

const names = ['url', 'model', 'system', 'temperature', 'max-tokens', 'key'] as const;
type Name = (typeof names)[number];

/** Accepts `--name value` and `--name=value`. Throws Error with a line for people. */
export function readOptions(args: readonly string[], environment: Record<string, string | undefined>): ChatOptions {
  const given = new Map<Name, string>();
  let wantsHelp = false;
  for (let index = 0; index < args.length; index++) {
    const argument = args[index] as string;
    if (argument === '--help' || argument === '-h') {
      wantsHelp = true;
      continue;
    }
    const [flag, inline] = splitOnce(argument);
    const name = names.find((known) => `--${known}` === flag);
    if (name === undefined) throw new Error(`unknown option ${argument} (--help lists them)`);
    const value = inline ?? args[++index];
    if (value === undefined) throw new Error(`${flag} needs a value`);
    given.set(name, value);
  }
  return {
    url: readUrl(given.get('url') ?? DEFAULT_URL),
    model: given.get('model') ?? null,
    system: given.get('system') ?? null,
    temperature: readNumber('--temperature', given.get('temperature'), 0, 2, false),
    maxTokens: readNumber('--max-tokens', given.get('max-tokens'), 1, 10_000_000, true),
    key: given.get('key') ?? (environment['API_KEY'] || null),
    wantsHelp,
  };
}

function splitOnce(argument: string): [flag: string, value: string | undefined] {
  const at = argument.indexOf('=');
  return at === -1 ? [argument, undefined] : [argument.slice(0, at), argument.slice(at + 1)];
}

function readUrl(value: string): string {
  const withScheme = /^[a-z]+:\/\//i.test(value) ? value : `ws://${value}`;
  try {
    const { protocol } = new URL(withScheme);
    if (['ws:', 'wss:', 'http:', 'https:'].includes(protocol)) return withScheme;
  } catch {
    // Said below, like any other wrong address.
  }
  throw new Error(`--url: ${value} is not an address such as ${DEFAULT_URL}`);
}

function readNumber(
  flag: string,
  value: string | undefined,
  lowest: number,
  highest: number,
  isWhole: boolean,
): number | null {
  if (value === undefined) return null;
  const number = Number(value);
  const isFine = value.trim() !== '' && number >= lowest && number <= highest && (!isWhole || Number.isInteger(number));
  if (!isFine)
    throw new Error(`${flag}: ${value} is not a ${isWhole ? 'whole ' : ''}number from ${lowest} to ${highest}`);
  return number;
}
