// Checks for fields of untrusted input, put together into checks of whole objects. Used by options.ts and
// validate.ts for the native wire and by the HTTP dialects for JSON bodies. Every failure is a ServiceError
// `invalid_request` whose `param` is the path of the field; nothing unknown is accepted and ignored.
import { ServiceError } from './errors.ts';

/** Returns the value as T or throws `invalid_request` naming `param`. */
export type Check<T> = (value: unknown, param: string) => T;

/** `optional`: nil counts as absent. `nullable`: may be absent, and nil is a value of its own. */
type Presence = 'required' | 'optional' | 'nullable';

export interface Field<T> {
  check: Check<T>;
  presence: Presence;
}

export const required = <T>(check: Check<T>): Field<T> => ({ check, presence: 'required' });
export const optional = <T>(check: Check<T>): Field<T> => ({ check, presence: 'optional' });
export const nullable = <T>(check: Check<T>): Field<T | null> => ({
  check: (value, param) => (value === null ? null : check(value, param)),
  presence: 'nullable',
});

/** Throws `invalid_request`: "`param` must be `expected`.". */
export function refuse(param: string, expected: string): never {
  throw new ServiceError('invalid_request', `${param} must be ${expected}.`, { param });
}

/** A string of `min` to `max` UTF-16 code units. */
export function string(min: number, max: number): Check<string> {
  const expected =
    max === Infinity ? (min === 0 ? 'a string' : 'a non-empty string') : `a string of ${min} to ${max} characters`;
  return (value, param) =>
    typeof value === 'string' && value.length >= min && value.length <= max ? value : refuse(param, expected);
}

export function matching(pattern: RegExp): Check<string> {
  return (value, param) =>
    typeof value === 'string' && pattern.test(value) ? value : refuse(param, `a string matching ${pattern.source}`);
}

/** A finite number in the inclusive range. */
export function number(min: number, max: number): Check<number> {
  return (value, param) =>
    typeof value === 'number' && value >= min && value <= max ? value : refuse(param, `a number from ${min} to ${max}`);
}

/** An integer in the inclusive range; 3.0 is one, whatever the wire form. */
export function integer(min: number, max: number): Check<number> {
  return (value, param) =>
    Number.isInteger(value) && (value as number) >= min && (value as number) <= max
      ? (value as number)
      : refuse(param, `an integer from ${min} to ${max}`);
}

export const boolean: Check<boolean> = (value, param) =>
  typeof value === 'boolean' ? value : refuse(param, 'true or false');

export function oneOf<T extends string>(values: readonly T[]): Check<T> {
  return (value, param) =>
    values.includes(value as T) ? (value as T) : refuse(param, `one of ${values.map((v) => `"${v}"`).join(', ')}`);
}

/** An array of `min` to `max` elements; a bad element is named `param[index]`. */
export function list<T>(check: Check<T>, min: number, max: number): Check<T[]> {
  return (value, param) => {
    if (!Array.isArray(value)) return refuse(param, 'an array');
    if (value.length < min || value.length > max) return refuse(param, `an array of ${min} to ${max} elements`);
    return value.map((element, index) => check(element, `${param}[${index}]`));
  };
}

/** Any map with string keys, as it is. */
export const map: Check<Record<string, unknown>> = (value, param) =>
  isMap(value) ? value : refuse(param, 'an object');

/**
 * A map with exactly these fields. The type demands a check for every field of T; a field that is not listed is
 * refused by name. `param` '' is the message's own options map, whose fields are named without a prefix.
 */
export function object<T extends object>(shape: {
  [K in keyof T]-?: Field<Exclude<T[K], undefined>>;
}): Check<T> {
  const entries = Object.entries(shape) as [string, Field<unknown>][];
  return (value, param) => {
    if (!isMap(value)) return refuse(param === '' ? 'options' : param, 'an object');
    for (const key of Object.keys(value)) {
      if (!Object.hasOwn(shape, key)) unknownField(join(param, key.slice(0, 64)));
    }
    const result: Record<string, unknown> = {};
    for (const [key, { check, presence }] of entries) {
      const field = Object.hasOwn(value, key) ? value[key] : undefined;
      const isAbsent = field === undefined || (field === null && presence !== 'nullable');
      if (!isAbsent) result[key] = check(field, join(param, key));
      else if (presence === 'required') missingField(join(param, key));
    }
    return result as T;
  };
}

/** Path of a field within `param`. */
export function join(param: string, key: string): string {
  return param === '' ? key : `${param}.${key}`;
}

function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function unknownField(param: string): never {
  throw new ServiceError('invalid_request', `${param} is not a field of this request.`, { param });
}

function missingField(param: string): never {
  throw new ServiceError('invalid_request', `${param} is missing.`, { param });
}
