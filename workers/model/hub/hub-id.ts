// Names of models on a hub that speaks the Hugging Face API: `org/name`, `org/name@revision`, with or without `hub:`.
// Called wherever such a name comes in. Ids and revisions become parts of addresses and paths, so nothing else passes.

const PREFIX = 'hub:';
const DEFAULT_REVISION = 'main';
const MAX_ID_CHARS = 96;
const MAX_REVISION_CHARS = 200;
/** As the hub names things: letters, digits, `_`, `-` and `.`, neither first nor last a mark. */
const PART = /^[a-zA-Z0-9_](?:[\w.-]*[a-zA-Z0-9_])?$/;
const REVISION = /^[a-zA-Z0-9_][\w.+-]*(?:\/[a-zA-Z0-9_][\w.+-]*)*$/;

export interface HubName {
  /** `org/name` */
  id: string;
  /** Branch, tag or commit. */
  revision: string;
}

/** Null when the text is not such a name; with the prefix `hub:` it must be one, else an Error says what it should be. */
export function parseHubName(text: string): HubName | null {
  const isForced = text.startsWith(PREFIX);
  const name = isForced ? text.slice(PREFIX.length) : text;
  const at = name.indexOf('@');
  const id = at < 0 ? name : name.slice(0, at);
  const revision = at < 0 ? DEFAULT_REVISION : name.slice(at + 1);
  const parts = id.split('/');
  const isId = parts.length === 2 && id.length <= MAX_ID_CHARS && parts.every(isPart);
  const isRevision = revision.length <= MAX_REVISION_CHARS && REVISION.test(revision) && !/\.\.|\.lock$/.test(revision);
  if (isId && isRevision) return { id, revision };
  if (isForced) throw new Error(`${text}: a model of the hub is written hub:org/name or hub:org/name@revision`);
  return null;
}

function isPart(part: string): boolean {
  return PART.test(part) && !part.includes('--') && !part.includes('..') && !part.endsWith('.git');
}

/** `org/name`, and `@revision` where it is not the usual one. */
export function formatHubName({ id, revision }: HubName): string {
  return revision === DEFAULT_REVISION ? id : `${id}@${revision}`;
}

/** Whether a revision is a full commit, which never changes. */
export function isCommit(revision: string): boolean {
  return /^[0-9a-f]{40}$/.test(revision);
}
