// What this browser remembers: the chats with a copy of what was said (the server's history is the truth, the copy
// serves when the server was restarted), the theme and the key. Storage may be full or forbidden: then nothing is kept.
import type { ChatMessage } from '../../protocol/messages.ts';
import type { ResponsePosition } from '../index.ts';

export interface ChatSettings {
  /** Model id; null is the server's default. */
  model: string | null;
  system: string;
  /** Null: as the model's preset says. */
  temperature: number | null;
  maxTokens: number | null;
}

export interface StoredChat {
  /** The server's session id; null when nothing was ever sent. */
  session: string | null;
  settings: ChatSettings;
  messages: ChatMessage[];
  /** An answer that was under way when the page was left. */
  unfinished: Unfinished | null;
}

export interface Unfinished {
  question: string;
  /** The text up to `position`. */
  answer: string;
  /** Null when the server had not named the response yet. */
  position: ResponsePosition | null;
}

export const noSettings: ChatSettings = { model: null, system: '', temperature: null, maxTokens: null };

const PREFIX = 'tokenwire.';

export function readStored(name: string): string | null {
  try {
    return localStorage.getItem(PREFIX + name);
  } catch {
    return null;
  }
}

export function writeStored(name: string, value: string | null): void {
  try {
    if (value === null) localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, value);
  } catch {
    // Full or forbidden: the page works without a memory.
  }
}

/** The chats of the last visit; whatever does not look like one is left out. */
export function readChats(): StoredChat[] {
  try {
    const value: unknown = JSON.parse(readStored('chats') ?? '[]');
    const chats = Array.isArray(value) ? value.filter(isStoredChat) : [];
    return chats.map((chat) => ({ ...chat, unfinished: isUnfinished(chat.unfinished) ? chat.unfinished : null }));
  } catch {
    return [];
  }
}

export function writeChats(chats: readonly StoredChat[]): void {
  writeStored('chats', JSON.stringify(chats));
}

function isStoredChat(value: unknown): value is StoredChat {
  if (typeof value !== 'object' || value === null) return false;
  const chat = value as Partial<StoredChat>;
  return (
    (chat.session === null || typeof chat.session === 'string') &&
    typeof chat.settings === 'object' &&
    chat.settings !== null &&
    typeof chat.settings.system === 'string' &&
    Array.isArray(chat.messages) &&
    chat.messages.every((message) => typeof message?.role === 'string' && typeof message.content === 'string')
  );
}

function isUnfinished(value: unknown): value is Unfinished {
  if (typeof value !== 'object' || value === null) return false;
  const { question, answer, position } = value as Partial<Unfinished>;
  if (typeof question !== 'string' || typeof answer !== 'string' || position === undefined) return false;
  if (position === null) return true;
  const { response, epoch, lastSeq } = position;
  return typeof response === 'string' && typeof epoch === 'string' && Number.isInteger(lastSeq) && lastSeq >= 0;
}
