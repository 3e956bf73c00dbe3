// The list of models as clients know it: in Welcome, and in a Models frame when it has changed since. SocketServer owns it.
// What must stay true: whoever was welcomed with an older list is told the newest, and nobody more often than once in
// MODELS_WINDOW_MS, however many models come and go in it.
import { encodeCopy } from '../../protocol/codec.ts';
import { MODELS_WINDOW_MS } from '../../protocol/constants.ts';
import { Op } from '../../protocol/messages.ts';
import type { ModelInfo } from '../../protocol/messages.ts';

export class ModelList {
  readonly #read: () => ModelInfo[];
  readonly #tellAll: () => void;
  #version = 0;
  /** The list of this version, as JSON. */
  #known = '';
  #frame: Uint8Array | null = null;
  #timer: NodeJS.Timeout | null = null;

  /** `tellAll`: gives `frame` to every connection that has an older version. */
  constructor(read: () => ModelInfo[], tellAll: () => void) {
    this.#read = read;
    this.#tellAll = tellAll;
  }

  /** Counts the lists there were. */
  get version(): number {
    return this.#version;
  }

  /** As it is now. */
  get models(): ModelInfo[] {
    return this.#read();
  }

  /** The Models frame of this version: encoded once for all connections. */
  get frame(): Uint8Array {
    return (this.#frame ??= encodeCopy([Op.Models, 0, this.#read()]));
  }

  /** Something about the models has changed, perhaps nothing that clients see. */
  changed(): void {
    const now = JSON.stringify(this.#read());
    if (now === this.#known) return;
    this.#known = now;
    this.#version++;
    this.#frame = null;
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      this.#tellAll();
    }, MODELS_WINDOW_MS).unref();
  }

  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }
}
