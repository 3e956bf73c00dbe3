// Keeps what web-xgrammar makes of strings within JSON: its rules for patterns and lengths let a string hold quotes,
// backslashes and control characters as they are. Used by grammar-source.ts on the rules of every schema. What must stay
// true: no character class allows more than before.

/** Rules of the library's own that are right, and may hold escapes. */
const ownRule = /^basic_/;
const characterClass = /"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]/g;
/** Control characters, the quote and the backslash, as ranges of code points. */
const forbidden = [
  [0, 0x1f],
  [0x22, 0x22],
  [0x5c, 0x5c],
] as const;
const LAST = 0x10ffff;

type Range = [first: number, last: number];

/** The same rules with all classes narrowed. Throws an Error when a class is empty then. */
export function withinJson(rules: string): string {
  return rules
    .split('\n')
    .map((line) => (ownRule.test(line) ? line : line.replace(characterClass, narrowed)))
    .join('\n');
}

function narrowed(found: string): string {
  if (found.startsWith('"')) return found;
  const isNegated = found.startsWith('[^');
  const ranges = rangesOf(found.slice(isNegated ? 2 : 1, -1));
  if (isNegated) return written([...ranges, ...forbidden.map(([first, last]): Range => [first, last])], '^');
  const kept = forbidden.reduce(without, ranges);
  if (kept.length === 0) throw new Error('a character that no JSON string can hold as it is');
  return written(kept, '');
}

function without(ranges: Range[], [low, high]: readonly [number, number]): Range[] {
  return ranges.flatMap(([first, last]): Range[] => [
    ...(first < low ? [[first, Math.min(last, low - 1)] satisfies Range] : []),
    ...(last > high ? [[Math.max(first, high + 1), last] satisfies Range] : []),
  ]);
}

function rangesOf(source: string): Range[] {
  const ranges: Range[] = [];
  const units = source.matchAll(/\\(?:U[0-9a-fA-F]{8}|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{1,2}|[^])|[^]/gu);
  const characters = Array.from(units, ([unit]) => ({ unit, point: pointOf(unit) }));
  for (let i = 0; i < characters.length; i++) {
    const first = characters[i]!.point;
    const isRange = characters[i + 1]?.unit === '-' && characters[i + 2] !== undefined;
    ranges.push([first, isRange ? characters[i + 2]!.point : first]);
    if (isRange) i += 2;
  }
  return ranges;
}

const escapes: Record<string, number> = { 0: 0, a: 7, b: 8, t: 9, n: 10, v: 11, f: 12, r: 13, e: 27 };

function pointOf(unit: string): number {
  if (!unit.startsWith('\\')) return unit.codePointAt(0)!;
  if (unit.length > 2) return Math.min(LAST, Number.parseInt(unit.slice(2), 16));
  const letter = unit.slice(1);
  return escapes[letter] ?? letter.codePointAt(0)!;
}

function written(ranges: readonly Range[], sign: '^' | ''): string {
  return `[${sign}${ranges.map(([first, last]) => (first === last ? point(first) : `${point(first)}-${point(last)}`)).join('')}]`;
}

function point(code: number): string {
  return `\\U${code.toString(16).padStart(8, '0')}`;
}
