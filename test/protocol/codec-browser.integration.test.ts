// The codec as browsers get it: bundled, without the native part of the MessagePack library. It must read every frame
// exactly as the server's does; long strings that begin with U+FEFF lost that character there.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import * as native from '../../protocol/codec.ts';
import { Op } from '../../protocol/messages.ts';
import type { ServerMessage } from '../../protocol/messages.ts';
import { bundleModules } from '../../src/web/bundle.ts';
import { Random, serverMessage } from './generate.ts';

const SEED = 20_261_122;
const MARK = '\uFEFF';

describe('The codec in a browser', () => {
  const folder = mkdtempSync(join(tmpdir(), 'tokenwire-codec-'));
  let codec: typeof native;
  beforeAll(async () => {
    const [module] = await bundleModules([fileURLToPath(new URL('../../protocol/codec.ts', import.meta.url))]);
    const file = join(folder, 'codec.mjs');
    writeFileSync(file, module!);
    codec = (await import(/* @vite-ignore */ pathToFileURL(file).href)) as typeof native;
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  /** Encoded by either, decoded by either. */
  function expectKept(message: unknown, note: string): void {
    for (const encoded of [codec, native].map(({ encode }) => encode(message as ServerMessage).slice())) {
      for (const { decode } of [codec, native]) expect(decode(encoded), note).toEqual(message);
    }
  }

  it('keeps U+FEFF at the start of deltas of every length, in every format of a string', () => {
    const lengths = [...Array.from({ length: 300 }, (_, n) => n), 4096, 65_529, 65_530, 65_535, 65_536, 70_000];
    for (const length of lengths) {
      for (const filler of ['x', 'é', '世', '😀']) {
        const text = MARK + filler.repeat(length);
        expectKept([Op.Deltas, 0, [[1, 1, text]]], `${length} of ${filler}`);
      }
    }
  });

  it(`keeps U+FEFF wherever it stands (500 messages of seed ${SEED})`, () => {
    const random = new Random(SEED);
    const text = (): string => {
      const marks = MARK.repeat(random.int(0, 3));
      return (
        marks +
        'aé世😀'
          .repeat(random.int(0, 40))
          .slice(0, random.int(0, 200))
          .replace(/[\uD800-\uDBFF]$/, '')
      );
    };
    for (let i = 0; i < 500; i++) {
      const deltas = Array.from({ length: random.int(1, 6) }, (_, at) => [at + 1, i, text(), 0, [1, 2]]);
      expectKept([Op.Deltas, 0, deltas], `case ${i}`);
      const map = Object.fromEntries(Array.from({ length: random.int(0, 4) }, (_, at) => [`${text()}${at}`, text()]));
      expectKept([Op.State, 0, 1, 'running', { ...map, nested: [map, text()] }], `case ${i}`);
    }
  });

  it(`reads every message as the server's codec does (500 of seed ${SEED + 1})`, () => {
    const random = new Random(SEED + 1);
    for (let i = 0; i < 500; i++) expectKept(serverMessage(random, i), `case ${i}`);
  });
});
