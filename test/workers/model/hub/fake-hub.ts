// A server that speaks the hub's API as far as pulling needs it, with a second port for the storage that large files are
// redirected to, and with faults: cuts at seeded places, wrong bytes, refusals, silence. Listens on 127.0.0.1 only.
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { seededRandom } from '../checkpoint.ts';

export interface FakeFile {
  content: Buffer;
  isLfs: boolean;
}

export interface FakeModel {
  commit: string;
  files: Map<string, FakeFile>;
  /** Asked for on every request to the hub. */
  token?: string;
  isGated?: boolean;
  /** Changes the list of files before it is sent. */
  editSiblings?(siblings: Record<string, unknown>[]): void;
}

export interface Seen {
  where: 'hub' | 'storage';
  url: string;
  authorization: string | undefined;
  range: string | undefined;
}

type Fault = (request: IncomingMessage, response: ServerResponse, where: Seen['where']) => boolean;

export class FakeHub {
  readonly models = new Map<string, FakeModel>();
  readonly seen: Seen[] = [];
  /** Answers instead of the hub when it returns true. */
  fault: Fault | null = null;
  /** Share of file answers that are cut somewhere. */
  cutChance = 0;
  /** Pause between pieces of a file. */
  delayMs = 0;
  /** Makes wrong bytes of right ones. */
  spoil: ((name: string, content: Buffer) => Buffer) | null = null;
  /** Address of the hub. */
  endpoint = '';
  #storageUrl = '';
  readonly #random: () => number;
  readonly #hub: Server;
  readonly #storage: Server;

  private constructor(seed: number) {
    this.#random = seededRandom(seed);
    this.#hub = createServer((request, response) => this.#answer(request, response, 'hub'));
    this.#storage = createServer((request, response) => this.#answer(request, response, 'storage'));
  }

  static async start(seed: number): Promise<FakeHub> {
    const hub = new FakeHub(seed);
    for (const server of [hub.#hub, hub.#storage]) {
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    }
    hub.endpoint = addressOf(hub.#hub);
    hub.#storageUrl = addressOf(hub.#storage);
    return hub;
  }

  /** Serves the files of a directory; those from `lfsFrom` bytes on are large ones. */
  add(id: string, directory: string, options: Partial<FakeModel> & { lfsFrom?: number } = {}): FakeModel {
    const { lfsFrom = 4096, ...rest } = options;
    const names = fs.readdirSync(directory, { recursive: true, encoding: 'utf8' });
    const files = new Map<string, FakeFile>();
    for (const name of names.filter((candidate) => fs.statSync(path.join(directory, candidate)).isFile())) {
      const content = fs.readFileSync(path.join(directory, name));
      files.set(name, { content, isLfs: content.length >= lfsFrom });
    }
    const model: FakeModel = { commit: sha1(`${id} 1`), files, ...rest };
    this.models.set(id, model);
    return model;
  }

  async stop(): Promise<void> {
    for (const server of [this.#hub, this.#storage]) {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  }

  /** Requests for contents of files, redirects not counted. */
  get numFileAnswers(): number {
    return this.seen.filter(({ where, url }) => where === 'storage' || url.startsWith('/api/resolve-cache/')).length;
  }

  #answer(request: IncomingMessage, response: ServerResponse, where: Seen['where']): void {
    const url = request.url ?? '';
    const { authorization, range } = request.headers;
    this.seen.push({ where, url, authorization, range });
    response.on('error', () => {});
    if (this.fault?.(request, response, where)) return;
    const parts = url.split('?')[0]!.split('/').slice(1).map(decodeURIComponent);
    if (where === 'storage') return this.#sendFile(request, response, parts);
    if (parts[0] === 'api' && parts[1] === 'models') return this.#sendList(request, response, parts.slice(2));
    if (parts[0] === 'api') return this.#sendFile(request, response, parts.slice(3));
    const [org, name, , commit, ...rest] = parts;
    const model = this.#allowed(request, response, `${org}/${name}`);
    if (model === null) return;
    const file = model.files.get(rest.join('/'));
    if (file === undefined || commit !== model.commit) return refuse(response, 404, 'EntryNotFound');
    const target = `${org}/${name}/${commit}/${rest.join('/')}`;
    if (file.isLfs) {
      response.writeHead(302, {
        location: `${this.#storageUrl}/${target}?signature=1`,
        'x-linked-size': String(file.content.length),
        'x-linked-etag': `"${sha256(file.content)}"`,
        'x-repo-commit': commit,
      });
    } else {
      response.writeHead(307, { location: `/api/resolve-cache/models/${target}` });
    }
    response.end();
  }

  #allowed(request: IncomingMessage, response: ServerResponse, id: string): FakeModel | null {
    const model = this.models.get(id);
    const given = request.headers.authorization?.replace(/^Bearer /, '');
    if (model === undefined || (model.token !== undefined && given !== model.token)) {
      // As the hub does: who may not know is told the same as where nothing is.
      refuse(response, given === undefined ? 401 : 404, 'RepoNotFound');
      return null;
    }
    if (model.isGated) {
      refuse(response, 403, 'GatedRepo');
      return null;
    }
    return model;
  }

  #sendList(request: IncomingMessage, response: ServerResponse, parts: string[]): void {
    const [org, name, , revision] = parts;
    const model = this.#allowed(request, response, `${org}/${name}`);
    if (model === null) return;
    if (revision !== 'main' && revision !== model.commit) return refuse(response, 404, 'RevisionNotFound');
    const siblings = [...model.files].map(([rfilename, { content, isLfs }]): Record<string, unknown> => {
      const blobId = sha1(Buffer.concat([Buffer.from(`blob ${content.length}\0`), content]));
      const lfs = { sha256: sha256(content), size: content.length, pointerSize: 130 };
      return { rfilename, size: content.length, blobId, ...(isLfs ? { lfs } : {}) };
    });
    model.editSiblings?.(siblings);
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ id: `${org}/${name}`, sha: model.commit, siblings }));
  }

  #sendFile(request: IncomingMessage, response: ServerResponse, [org, name, , ...rest]: string[]): void {
    const file = this.models.get(`${org}/${name}`)?.files.get(rest.join('/'));
    if (file === undefined) return refuse(response, 404, null);
    const content = this.spoil?.(rest.join('/'), file.content) ?? file.content;
    const etag = `"${sha1(content)}"`;
    const match = /^bytes=(\d+)-$/.exec(request.headers.range ?? '');
    const isSame = [undefined, etag].includes(request.headers['if-range'] as string | undefined);
    const from = match && isSame ? Number(match[1]) : 0;
    if (from > 0 && from >= content.length) {
      response.writeHead(416, { 'content-range': `bytes */${content.length}` }).end();
      return;
    }
    const range = from > 0 ? { 'content-range': `bytes ${from}-${content.length - 1}/${content.length}` } : {};
    response.writeHead(from > 0 ? 206 : 200, { etag, 'content-length': content.length - from, ...range });
    const isCut = this.#random() < this.cutChance;
    const end = isCut ? from + Math.floor(this.#random() * (content.length - from)) : content.length;
    void this.#sendPieces(response, content.subarray(from, end), isCut);
  }

  async #sendPieces(response: ServerResponse, content: Buffer, isCut: boolean): Promise<void> {
    const size = this.delayMs > 0 ? Math.ceil(content.length / 10) || 1 : 16_384;
    for (let at = 0; at < content.length && !response.destroyed; at += size) {
      await new Promise((resolve) => response.write(content.subarray(at, at + size), resolve));
      if (this.delayMs > 0) await new Promise((resolve) => setTimeout(resolve, this.delayMs));
    }
    if (isCut) response.destroy();
    else response.end();
  }
}

function addressOf(server: Server): string {
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

export function refuse(response: ServerResponse, status: number, code: string | null, headers = {}): void {
  response.writeHead(status, { ...(code === null ? {} : { 'x-error-code': code }), ...headers }).end();
}

function sha256(content: Buffer): string {
  return createHash('sha256').update(content).digest('hex');
}

export function sha1(content: Buffer | string): string {
  return createHash('sha1').update(content).digest('hex');
}
