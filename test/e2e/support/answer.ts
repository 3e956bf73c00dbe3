// One response as a client sees it: its text, its end, and whether its frames kept the order the protocol promises.
import { Op } from '../../../protocol/messages.ts';
import type { ServerMessage, Usage, WireError } from '../../../protocol/messages.ts';

type Event = Extract<ServerMessage, { 0: 42 | 43 | 44 | 45 }>;

/** How it ended: Done, refused before it had a handle, or the connection was lost before either. */
export type Ending =
  | { kind: 'done'; reason: string; seq: number; usage: Usage; error: WireError | null }
  | { kind: 'refused'; error: WireError }
  | { kind: 'lost'; code: number };

export class Answer {
  readonly requestId: string;
  readonly lane: number;
  readonly sentAtMs = performance.now();
  /** Times of the frames with text. */
  readonly arrivalsMs: number[] = [];
  /** Their texts. */
  readonly pieces: string[] = [];
  /** Rejects when it was refused or lost before that. */
  readonly created: Promise<void>;
  readonly ended: Promise<Ending>;
  /** The seq in Cancelled. */
  readonly cancelled: Promise<number>;
  handle = 0;
  /** Id of the response. */
  response = '';
  text = '';
  lastSeq = 0;
  ackedSeq = 0;
  ending: Ending | null = null;
  readonly #violate: (text: string) => void;
  readonly #created = Promise.withResolvers<void>();
  readonly #ended = Promise.withResolvers<Ending>();
  readonly #cancelled = Promise.withResolvers<number>();
  readonly #waiting = new Set<() => void>();
  #isOver = false;

  constructor(requestId: string, lane: number, violate: (text: string) => void) {
    this.requestId = requestId;
    this.lane = lane;
    this.#violate = (text) => violate(`${requestId}: ${text}`);
    this.created = this.#created.promise;
    this.created.catch(() => undefined);
    this.ended = this.#ended.promise;
    this.cancelled = this.#cancelled.promise;
    this.cancelled.catch(() => undefined);
  }

  /** The Done; throws an Error for every other ending. */
  async done(): Promise<Extract<Ending, { kind: 'done' }>> {
    const ending = await this.ended;
    if (ending.kind !== 'done') throw new Error(`${this.requestId} ended with ${JSON.stringify(ending)}`);
    return ending;
  }

  /** The error it ended with, before or after Created. */
  async error(): Promise<WireError> {
    const ending = await this.ended;
    if (ending.kind === 'lost' || ending.error === null) throw new Error(`no error but ${JSON.stringify(ending)}`);
    return ending.error;
  }

  /** Resolves when this much text has come, or the end. */
  hasText(chars = 1): Promise<void> {
    return new Promise((resolve) => {
      const check = (): void => {
        if (this.text.length < chars && this.ending === null) return;
        this.#waiting.delete(check);
        resolve();
      };
      this.#waiting.add(check);
      check();
    });
  }

  onCreated([, , , handle, response]: Extract<ServerMessage, { 0: 40 }>): void {
    if (this.handle !== 0) this.#violate('created twice');
    this.handle = handle;
    this.response = response;
    this.#created.resolve();
  }

  /** Returns how many events are not acknowledged. */
  onText(seq: number, text: string, atMs: number): number {
    if (this.ending !== null) this.#violate('text after Done');
    if (seq <= this.lastSeq) this.#violate(`text of seq ${seq} after ${this.lastSeq}`);
    this.lastSeq = seq;
    this.text += text;
    this.pieces.push(text);
    this.arrivalsMs.push(atMs);
    this.#check();
    return seq - this.ackedSeq;
  }

  /** Everything but text has a seq of its own, right behind what came before. */
  onEvent(frame: Event): void {
    const seq = frame[3];
    if (this.ending !== null) this.#violate(`op ${frame[0]} after Done`);
    if (seq !== this.lastSeq + 1) this.#violate(`op ${frame[0]} has seq ${seq} after ${this.lastSeq}`);
    this.lastSeq = seq;
    if (frame[0] !== Op.Done) return;
    if (frame[1] !== this.lane) this.#violate(`Done on lane ${frame[1]}`);
    const [, , , , reason, usage, , error] = frame;
    if ((reason === 'error') !== (error !== null)) this.#violate(`reason ${reason} with error ${error?.code}`);
    this.#end({ kind: 'done', reason, seq, usage, error });
  }

  onCancelled(seq: number): void {
    if (this.ending === null) this.#violate('Cancelled before Done');
    if (seq !== this.lastSeq) this.#violate(`Cancelled has seq ${seq}, Done had ${this.lastSeq}`);
    this.#cancelled.resolve(seq);
  }

  onRefused(error: WireError): void {
    if (this.handle !== 0) this.#violate(`Error ${error.code} after Created`);
    this.#end({ kind: 'refused', error });
  }

  lose(code: number): void {
    if (!this.#isOver) this.#end({ kind: 'lost', code });
  }

  #end(ending: Ending): void {
    if (this.#isOver) this.#violate(`ended twice: ${this.ending?.kind}, ${ending.kind}`);
    this.#isOver = true;
    this.ending = ending;
    if (this.handle === 0) this.#created.reject(new Error(`never created: ${JSON.stringify(ending)}`));
    if (ending.kind !== 'done') this.#cancelled.reject(new Error(`never cancelled: ${ending.kind}`));
    this.#ended.resolve(ending);
    this.#check();
  }

  #check(): void {
    for (const check of this.#waiting) check();
  }
}
