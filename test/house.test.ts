// The house rules that a compiler does not know: who may import whom, one door per dependency, files of one subject.
import { globSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { describe, expect, it } from 'vitest';

const root = resolve(import.meta.dirname, '..');
const rooms = ['protocol', 'src', 'workers', 'clients', 'bench', 'test'] as const;
type Room = (typeof rooms)[number];

interface Import {
  file: string;
  room: Room;
  /** Path from the root for our own modules, else the package or node: module. */
  target: string;
  isOurs: boolean;
  isType: boolean;
}

const files = rooms.flatMap((room) => globSync(`${room}/**/*.ts`, { cwd: root }));

const text = (file: string): string => readFileSync(join(root, file), 'utf8');

const imports: Import[] = files.flatMap((file) => {
  const room = file.split('/')[0] as Room;
  const found = text(file).matchAll(/^(?:import|export)(\s+type)?[^;]*?from\s+'([^']+)'|import\('([^']+)'\)/gm);
  return [...found].map((match) => {
    const name = (match[2] ?? match[3])!;
    const isOurs = name.startsWith('.');
    const target = isOurs ? relative(root, resolve(root, dirname(file), name)) : name;
    return { file, room, target, isOurs, isType: match[1] !== undefined };
  });
});

const allowed: Record<Room, (target: string) => boolean> = {
  protocol: (target) => target.startsWith('protocol/'),
  clients: (target) => target.startsWith('clients/') || target.startsWith('protocol/'),
  workers: (target) => target.startsWith('workers/') || target.startsWith('protocol/'),
  src: (target) =>
    target.startsWith('src/') ||
    target.startsWith('protocol/') ||
    target.startsWith('workers/messages/') ||
    target === 'package.json',
  bench: () => true,
  test: () => true,
};

const doors: [dependency: RegExp, file: RegExp][] = [
  [/^uWebSockets\.js$/, /^src\/server\.ts$/],
  [/^piscina$/, /^src\/engine\/pool\.ts$/],
  [/^onnxruntime/, /^workers\/model\/ort-binding\.ts$/],
  [/^@mlc-ai\/web-xgrammar$/, /^workers\/grammar\/xgrammar\.ts$/],
  [/^(msgpackr|@msgpack)/, /^protocol\/codec\.ts$/],
];

/** One subject each, with much to it. */
const long = [
  'workers/scheduler.ts',
  'test/workers/model/hub/pull.integration.test.ts',
  'test/src/socket/outbox.test.ts',
];

describe('The house', () => {
  it('finds the imports it is to judge', () => {
    expect(files.length).toBeGreaterThan(50);
    expect(imports.filter(({ isOurs }) => isOurs).length).toBeGreaterThan(100);
  });

  it.each(rooms)('lets %s import only from the rooms below it', (room) => {
    const wrong = imports.filter((item) => item.room === room && item.isOurs && !allowed[room](item.target));
    expect(wrong.map(({ file, target }) => `${file} → ${target}`)).toEqual([]);
  });

  it('keeps node: modules out of protocol and of the clients that run in a browser', () => {
    const wrong = imports.filter(
      ({ file, target }) =>
        /^(protocol|clients\/(?!cli\/|examples\/|demos\/|build-sdk\.ts))/.test(file) && target.startsWith('node:'),
    );
    expect(wrong.map(({ file, target }) => `${file} → ${target}`)).toEqual([]);
  });

  it.each(doors)('has one door to %s', (dependency, door) => {
    const users = imports.filter(
      ({ room, target, isType, file }) =>
        room !== 'test' && room !== 'bench' && dependency.test(target) && !isType && !door.test(file),
    );
    expect(users.map(({ file }) => file)).toEqual([]);
    // require() is the other way in.
    const required = files.filter((file) => {
      if (/^(test|bench)\//.test(file) || door.test(file)) return false;
      const names = [...text(file).matchAll(/require\('([^']+)'\)/g)];
      return names.some((match) => dependency.test(match[1]!));
    });
    expect(required).toEqual([]);
  });

  it('has files of one subject, each with a header that says what it owns', () => {
    const product = files.filter((file) => !file.startsWith('test/'));
    expect(product.filter((file) => !text(file).startsWith('//'))).toEqual([]);
    const tooLong = files.filter((file) => text(file).split('\n').length > (long.includes(file) ? 600 : 450));
    expect(tooLong, 'what is the second subject?').toEqual([]);
  });

  it('names no place of the machine it was written on', () => {
    const texts = globSync(
      '{README.md,{protocol,src,workers,clients,bench,test}/**/*.{ts,js,py,md,json,jsonl,html,css}}',
      {
        cwd: root,
      },
    );
    expect(texts.length).toBeGreaterThan(files.length);
    const place = /(?<![\w.}*])\/(?:work|tmp|home|root|Users)\/\w/;
    expect(texts.filter((file) => place.test(text(file)))).toEqual([]);
  });

  it('has a README in every folder with code of the product', () => {
    const folders = new Set(files.filter((file) => !file.startsWith('test/')).map((file) => dirname(file)));
    const missing = [...folders].filter((folder) => {
      try {
        return !statSync(join(root, folder, 'README.md')).isFile();
      } catch {
        return true;
      }
    });
    expect(missing).toEqual([]);
  });
});
