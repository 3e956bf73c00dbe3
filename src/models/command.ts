// Command line of `npm run models` → what to do, or one clear line about what is wrong.
import { ConfigError } from '../config-values.ts';
import { readSettings } from '../config.ts';
import { settingHelp } from '../help.ts';
import { flagOf, settings, type Config } from '../settings.ts';
import type { ModelsAction } from '../../workers/messages/models.ts';

export interface Command {
  action: ModelsAction;
  isJson: boolean;
  config: Pick<Config, 'cacheDir' | 'modelsDir' | 'hubEndpoint' | 'hubToken'>;
}

const JSON_FLAG = '--json';
const shown = [settings.modelsDir, settings.cacheDir, settings.hubEndpoint, settings.hubToken];

export const help = `Models of the hub on this machine.

  npm run models                     list (also: npm run models -- list)
  npm run models -- pull ID          download what is missing; ID is org/name or org/name@revision
  npm run models -- verify ID        read every file again and compare its checksum
  npm run models -- remove ID        delete it and what was compiled from it

  --json             print the result as one line of JSON
${shown.map((row) => settingHelp(row, `${flagOf(row)}, ${row.name}`)).join('\n')}
  --help             this text

Exit codes: 0 done; 1 it failed, or verify found a wrong file; 2 the command line is wrong.
`;

/** Null asks for the help text. Throws ConfigError with the line to print. */
export function readCommand(
  args: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): Command | null {
  if (args.some((arg) => arg === '--help' || arg === '-h')) return null;
  const words: string[] = [];
  const flags: string[] = [];
  let isJson = false;
  for (let index = 0; index < args.length; index++) {
    const arg = args[index]!;
    if (arg === JSON_FLAG) isJson = true;
    else if (!arg.startsWith('--')) words.push(arg);
    else {
      if (!shown.some((row) => arg.split('=')[0] === flagOf(row))) {
        throw new ConfigError(`unknown argument ${arg.split('=')[0]}; --help lists all`);
      }
      flags.push(arg);
      const value = args[index + 1];
      if (!arg.includes('=') && value !== undefined) {
        flags.push(value);
        index++;
      }
    }
  }
  // Settings of the server are none of this command's business, right or wrong.
  const names = shown.flatMap((row) => [row.name, row.alsoNamed ?? row.name]);
  const relevant = Object.fromEntries(names.map((name) => [name, env[name]]));
  return { action: readAction(words), isJson, config: readSettings(flags, relevant) };
}

function readAction([verb = 'list', name, ...rest]: string[]): ModelsAction {
  if (verb === 'list') {
    if (name !== undefined) throw new ConfigError(`list takes no argument, got ${name}`);
    return { kind: 'list' };
  }
  if (verb !== 'pull' && verb !== 'verify' && verb !== 'remove') {
    throw new ConfigError(`unknown command ${verb}; there are list, pull, verify and remove`);
  }
  if (name === undefined) throw new ConfigError(`${verb} needs the name of a model: org/name or org/name@revision`);
  if (rest.length > 0) throw new ConfigError(`${verb} takes one model, got ${[name, ...rest].join(' ')}`);
  return { kind: verb, name };
}
