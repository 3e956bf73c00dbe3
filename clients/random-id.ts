// Request ids chosen by the client. Not crypto.randomUUID: browsers hide it on plain-http pages of a local network.

/** 96 random bits as 24 hex characters. */
export function randomId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
