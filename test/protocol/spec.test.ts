// protocol/README.md and vectors.json against the code: tables, ops, limits, the worked example, every vector.
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import vectors from '../../protocol/vectors.json' with { type: 'json' };
import { decode, encode, MAX_NESTING, MAX_PARTS } from '../../protocol/codec.ts';
import { CloseCode, Limits } from '../../protocol/constants.ts';
import { errorTable, ServiceError } from '../../protocol/errors.ts';
import { Op } from '../../protocol/messages.ts';
import type { ClientMessage } from '../../protocol/messages.ts';
import { defaultSampling, samplingRanges } from '../../protocol/sampling.ts';
import { parseClientMessage } from '../../protocol/validate.ts';

interface Vector {
  name: string;
  direction: string;
  hex: string;
  message: unknown;
  note: string;
  expect?: string;
  alternative?: boolean;
}

const readme = readFileSync(new URL('../../protocol/README.md', import.meta.url), 'utf8');

/** Cells of the rows of every table whose header begins with these cells. */
function table(...header: string[]): string[][] {
  const lines = readme.split('\n');
  const rows: string[][] = [];
  const start = `| ${header.join(' | ')} |`;
  for (let i = 0; i < lines.length; i++) {
    if (!lines[i]?.startsWith(start)) continue;
    for (i += 2; lines[i]?.startsWith('|'); i++) {
      rows.push(
        (lines[i] as string)
          .split('|')
          .slice(1, -1)
          .map((cell) => cell.trim()),
      );
    }
  }
  expect(rows.length, start).toBeGreaterThan(0);
  return rows;
}

const toHex = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
const fromHex = (hex: string) => new Uint8Array((hex.match(/../g) ?? []).map((byte) => Number.parseInt(byte, 16)));

describe('README', () => {
  it('lists every error with its scope, status, close code and retry', () => {
    const rows = table('Code', 'Scope').map((cells) => cells.slice(0, 5));
    const expected = Object.entries(errorTable).map(([code, row]) => {
      const close = 'close' in row ? String(row.close) : '';
      return [code, row.scope, String(row.status), close, row.retryable ? 'yes' : 'no'];
    });
    expect(rows).toEqual(expected);
  });

  it('lists every limit with its value', () => {
    const rows = table('Limit', 'Value').map(([name, value]) => [name, Number(value)]);
    expect(rows).toEqual(Object.entries(Limits));
  });

  it('lists every sampling field with its range and default', () => {
    const ranges: Record<string, readonly [number, number]> = samplingRanges;
    const expected = Object.entries(defaultSampling).map(([field, value]) => {
      const range = ranges[field]?.join(' to ') ?? '';
      return [field, range, value === null ? 'nil' : JSON.stringify(value)];
    });
    expect(table('Field', 'Type', 'Range').map(([field, , range, value]) => [field, range, value])).toEqual(expected);
  });

  it('lists every op by number and name', () => {
    const rows = table('Op', 'Name').map(([op, name]) => [name, Number(op)]);
    expect(rows).toEqual(Object.entries(Op));
  });

  it('lists every close code, and the errors that use it', () => {
    const rows = new Map(table('Close code', 'When').map(([code, when]) => [Number(code), when ?? '']));
    expect([...rows.keys()]).toEqual(Object.values(CloseCode));
    for (const [code, row] of Object.entries(errorTable)) {
      if ('close' in row) expect(rows.get(row.close)).toContain(code);
    }
  });

  it('tells how deep and how large a frame may be', () => {
    expect(readme).toContain(`nest at most ${MAX_NESTING} deep`);
    expect(readme).toContain(`at most ${MAX_PARTS} arrays, maps and map entries together`);
  });

  it('gives rules for frames too large for the vectors, and means what it says', () => {
    for (const [name, head, filler, count, outcome] of table('Large frame', 'Begins with')) {
      const numBytes = Number(count);
      const begin = fromHex(head!.replaceAll(/[` ]/g, ''));
      const frame = new Uint8Array(begin.length + numBytes).fill(Number.parseInt(filler!.replaceAll('`', ''), 16));
      frame.set(begin);
      const isTooLarge = frame.length > Limits.messageBytes;
      const read = (): unknown => (isTooLarge ? 'too_large' : parseClientMessage(decode(frame)));
      if (outcome!.includes('invalid_frame')) expect(read, name).toThrow('Undecodable');
      else if (outcome!.includes('too_large')) expect(read(), name).toBe('too_large');
      else expect(read(), name).toEqual({ ok: true, message: [Op.Ping, 0, 1] });
    }
  });

  it('works its example with bytes that stand in the vectors', () => {
    const blocks = [...readme.matchAll(/```\n([0-9a-f ]+)\n```/g)].map((match) => match[1]?.replaceAll(' ', ''));
    const worked = vectors.filter(({ name }) => name.startsWith('worked-')).map(({ hex }) => hex);
    expect(blocks.toSorted()).toEqual(worked.toSorted());
  });
});

describe('vectors.json', () => {
  const all: Vector[] = vectors;

  it.each(all.filter((vector) => vector.message !== null))('$name decodes to its message', ({ hex, message }) => {
    expect(decode(fromHex(hex))).toEqual(message);
  });

  it.each(all.filter((vector) => vector.message !== null && !vector.alternative))(
    '$name is what its message encodes to',
    ({ hex, message }) => {
      expect(toHex(encode(message as ClientMessage))).toBe(hex);
    },
  );

  it('shows Welcome with the limits of this version', () => {
    const welcome = all.find(({ name }) => name === 'welcome')?.message as [number, number, number, { limits: object }];
    expect(welcome[3].limits).toEqual(Limits);
  });

  it.each(all.filter((vector) => vector.direction === 'client' && vector.expect === undefined))(
    '$name is accepted',
    ({ hex }) => {
      expect(parseClientMessage(decode(fromHex(hex)))).toMatchObject({ ok: true });
    },
  );

  it.each(all.filter((vector) => vector.expect !== undefined))('$name is refused as $expect', (vector) => {
    let code: string | undefined;
    try {
      const parsed = parseClientMessage(decode(fromHex(vector.hex)));
      code = parsed.ok ? undefined : parsed.error.code;
      expect(vector.message, 'bytes that decode have a message').not.toBeNull();
    } catch (error) {
      code = error instanceof ServiceError ? error.code : undefined;
      expect(vector.message, 'bytes that do not decode have none').toBeNull();
    }
    expect(code).toBe(vector.expect);
  });

  it('has unique names and every op in its direction', () => {
    expect(new Set(all.map(({ name }) => name)).size).toBe(all.length);
    const good = all.filter((vector) => vector.expect === undefined);
    for (const [name, op] of Object.entries(Op)) {
      const direction = op < 32 ? 'client' : 'server';
      const hasVector = good.some((vector) => vector.direction === direction && (vector.message as number[])[0] === op);
      expect(hasVector, name).toBe(true);
    }
  });
});
