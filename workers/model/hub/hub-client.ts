// One request to a hub that speaks the Hugging Face HTTP API, as plain fetch: redirects followed by hand, so that the
// token goes to the hub's own origin and nowhere else, and every refusal turned into a line that says what to do.
// Called by pull and download, which try again.
import { parseListing, type Listing } from './listing.ts';
import { formatHubName, type HubName } from './hub-id.ts';
import { HubError, parseRetryAfter } from './retry.ts';

export interface HubClientOptions {
  /** Address of the hub, http or https, without a slash at its end. */
  endpoint: string;
  /** Empty: none. */
  token: string;
  /** Time without a byte after which a connection counts as cut. */
  stallMs: number;
  signal?: AbortSignal | undefined;
}

export interface Opened {
  response: Response;
  /** Bytes of the whole file as the hub itself said while redirecting (X-Linked-Size); null: it did not. */
  linkedBytes: number | null;
  /** Call whenever bytes arrived; `done` when no more are expected. */
  alive(): void;
  done(): void;
  /** Whether the connection was cut here because nothing arrived any more. */
  isStalled(): boolean;
}

const MAX_REDIRECTS = 5;
const REDIRECTS = new Set([301, 302, 303, 307, 308]);
const MAX_LISTING_BYTES = 32 << 20;

export class HubClient {
  readonly #options: HubClientOptions;
  readonly #origin: string;

  constructor(options: HubClientOptions) {
    this.#options = options;
    this.#origin = new URL(options.endpoint).origin;
  }

  /** The commit behind a revision and all its files. */
  async list(name: HubName): Promise<Listing> {
    const { id, revision } = name;
    const address = `${this.#options.endpoint}/api/models/${id}/revision/${encodeURIComponent(revision)}?blobs=true`;
    const opened = await this.#open(new URL(address), {}, formatHubName(name));
    const text = await readText(opened, formatHubName(name));
    try {
      return parseListing(id, JSON.parse(text));
    } catch (error) {
      if (error instanceof HubError) throw error;
      throw new HubError(`${id}: ${this.#origin} answered something that is not JSON; is HUB_ENDPOINT a hub?`);
    }
  }

  /** A file of a commit; `headers` may ask for a range. Status 200, 206 or 416; anything else is a HubError. */
  async openFile(id: string, commit: string, path: string, headers: Record<string, string>): Promise<Opened> {
    const encoded = path.split('/').map(encodeURIComponent).join('/');
    return this.#open(
      new URL(`${this.#options.endpoint}/${id}/resolve/${commit}/${encoded}`),
      headers,
      `${id}/${path}`,
    );
  }

  async #open(start: URL, headers: Record<string, string>, subject: string): Promise<Opened> {
    const { token, stallMs, signal } = this.#options;
    const stalled = new AbortController();
    const timer = setTimeout(() => stalled.abort(), stallMs);
    const abort = signal ? AbortSignal.any([signal, stalled.signal]) : stalled.signal;
    let linkedBytes: number | null = null;
    let isAtHome = true;
    try {
      let url = start;
      for (let hop = 0; hop <= MAX_REDIRECTS; hop++) {
        // Once away, never again: what another host redirects to is its choice, not the hub's.
        isAtHome &&= url.origin === this.#origin;
        const sent: Record<string, string> = { ...headers, 'accept-encoding': 'identity', 'user-agent': 'tokenwire' };
        if (isAtHome && token !== '') sent['authorization'] = `Bearer ${token}`;
        const response = await fetch(url, { headers: sent, redirect: 'manual', signal: abort });
        timer.refresh();
        if (isAtHome) linkedBytes = parseSize(response.headers.get('x-linked-size')) ?? linkedBytes;
        if (!REDIRECTS.has(response.status)) {
          if (!response.ok && response.status !== 416) throw await this.#refusal(response, subject, isAtHome);
          return {
            response,
            linkedBytes,
            alive: () => void timer.refresh(),
            done: () => clearTimeout(timer),
            isStalled: () => stalled.signal.aborted,
          };
        }
        await response.body?.cancel();
        url = nextAddress(url, response.headers.get('location'), subject);
      }
      throw new HubError(`${subject}: more than ${MAX_REDIRECTS} redirects`);
    } catch (error) {
      clearTimeout(timer);
      if (error instanceof HubError) throw error;
      signal?.throwIfAborted();
      throw connectionError(error, subject, start.origin, stalled.signal.aborted);
    }
  }

  async #refusal(response: Response, subject: string, isFromHub: boolean): Promise<HubError> {
    const { status, headers } = response;
    await response.body?.cancel();
    const code = headers.get('x-error-code');
    const hasToken = this.#options.token !== '';
    const fatal = (text: string): HubError => new HubError(`${subject}: ${text}`);
    if (isFromHub && code === 'GatedRepo') {
      const page = `${this.#options.endpoint}/${subject.split(/[@]/)[0]!.split('/').slice(0, 2).join('/')}`;
      return fatal(
        hasToken
          ? `the model is gated: its terms have to be accepted at ${page} by the owner of HUB_TOKEN`
          : `the model is gated: accept its terms at ${page}, then set HUB_TOKEN`,
      );
    }
    if (code === 'RevisionNotFound') return fatal('the model has no such revision');
    if (code === 'EntryNotFound') return fatal('the model has no such file any more');
    if (isFromHub && (status === 401 || (status === 403 && !hasToken))) {
      return fatal(
        hasToken
          ? `the hub refuses HUB_TOKEN (${status}), or there is no such model`
          : `no such model, or it is private (${status}): private models need HUB_TOKEN`,
      );
    }
    if (isFromHub && status === 403) return fatal('HUB_TOKEN may not read this model (403)');
    if (isFromHub && status === 404) return fatal('the hub has no such model');
    // Signed addresses of the storage behind the hub run out: asking the hub again gives a new one.
    const isTransient = status === 408 || status === 425 || status === 429 || status >= 500 || !isFromHub;
    const retryAfterMs = parseRetryAfter(headers.get('retry-after'));
    const reason = status === 429 ? 'too many requests (429)' : `status ${status}`;
    return new HubError(`${subject}: ${new URL(response.url).host} answered ${reason}`, { isTransient, retryAfterMs });
  }
}

function nextAddress(from: URL, location: string | null, subject: string): URL {
  if (location === null || !URL.canParse(location, from)) throw new HubError(`${subject}: redirected to nowhere`);
  const next = new URL(location, from);
  const isDowngrade = from.protocol === 'https:' && next.protocol !== 'https:';
  if (isDowngrade || !/^https?:$/.test(next.protocol)) {
    throw new HubError(`${subject}: redirected from ${from.protocol} to ${next.protocol}, which is not followed`);
  }
  return next;
}

/** What a broken connection is called for people; always worth another try. */
export function connectionError(error: unknown, subject: string, where: string, isStalled: boolean): HubError {
  const { code, message } = ((error as { cause?: unknown }).cause ?? error) as { code?: string; message?: string };
  const reason = isStalled ? 'nothing arrives any more' : (code ?? message ?? 'the connection failed');
  return new HubError(`${subject}: ${where} cannot be read: ${reason}`, { isTransient: true, cause: error });
}

async function readText(opened: Opened, subject: string): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  try {
    for await (const chunk of opened.response.body ?? []) {
      opened.alive();
      bytes += (chunk as Uint8Array).length;
      if (bytes > MAX_LISTING_BYTES) throw new HubError(`${subject}: the hub's list of files does not end`);
      chunks.push(chunk as Uint8Array);
    }
  } catch (error) {
    throw error instanceof HubError ? error : connectionError(error, subject, 'the hub', opened.isStalled());
  } finally {
    opened.done();
  }
  return Buffer.concat(chunks).toString('utf8');
}

function parseSize(header: string | null): number | null {
  return header !== null && /^\d{1,15}$/.test(header) ? Number(header) : null;
}
