// The text of `--help`: every setting as its row says (settings.ts), in lines that fit a terminal.
import { flagOf, settingRows, type Setting } from './settings.ts';

const MOST_COLUMNS = 100;

export function helpText(): string {
  const width = Math.max(...settingRows.map(([, setting]) => flagOf(setting).length));
  return [
    'Tokenwire: a self-hosted, OpenAI-compatible, real-time language-model server.',
    '',
    'Usage: npm start -- [--flag value | --flag=value] …',
    'Every setting is a flag or an environment variable; the flag wins.',
    '',
    ...settingRows.map(([, setting]) => settingHelp(setting, `${flagOf(setting).padEnd(width)}  ${setting.name}`)),
    '',
  ].join('\n');
}

/** One setting under this head line. */
export function settingHelp({ meaning, defaultText }: Setting<unknown>, head: string): string {
  return [`  ${head}`, ...inLines(meaning), ...inLines(`Default: ${defaultText}.`)].join('\n');
}

function inLines(sentence: string): string[] {
  const indent = '     ';
  const lines = [indent];
  for (const word of sentence.split(' ')) {
    if (lines.at(-1)!.length + 1 + word.length > MOST_COLUMNS) lines.push(indent);
    lines.push(`${lines.pop()} ${word}`);
  }
  return lines;
}
