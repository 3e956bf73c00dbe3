// Flags of the demonstrations: `--name value` with a default for each, and --help.

export interface Flags<Name extends string> {
  values: Record<Name, string>;
  wantsHelp: boolean;
  /** One line that says what is wrong. */
  error: string | null;
}

export function readFlags<Name extends string>(args: readonly string[], defaults: Record<Name, string>): Flags<Name> {
  const flags: Flags<Name> = { values: { ...defaults }, wantsHelp: false, error: null };
  for (let index = 0; index < args.length; index++) {
    const [flag = '', inline] = (args[index] ?? '').split(/=(.*)/s);
    const name = flag.replace(/^--/, '');
    const value = inline ?? args[index + 1];
    if (flag === '--help' || flag === '-h') flags.wantsHelp = true;
    else if (!flag.startsWith('--') || !Object.hasOwn(defaults, name)) flags.error ??= `unknown argument ${flag}`;
    else if (value === undefined || value === '') flags.error ??= `${flag} needs a value`;
    else {
      flags.values[name as Name] = value;
      if (inline === undefined) index++;
    }
  }
  return flags;
}
