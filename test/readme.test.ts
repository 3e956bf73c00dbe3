// The root README tells the truth about settings, limits and files.
import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { settings } from '../src/settings.ts';
import { Limits } from '../protocol/constants.ts';

const root = resolve(import.meta.dirname, '..');
const readme = readFileSync(join(root, 'README.md'), 'utf8');

describe('README', () => {
  it('lists every setting with its default and meaning', () => {
    const rows = Object.values(settings).map((s) => `| \`${s.name}\` | ${s.defaultText} | ${s.meaning} |`);
    expect(readme).toContain(['| Setting | Default | Meaning |', '|---|---|---|', ...rows].join('\n'));
  });

  it('states the limits as they are', () => {
    const rows: [string, number][] = [
      ['| WebSocket message | 1 MiB |', Limits.messageBytes / 2 ** 20],
      ['| HTTP body | 8 MiB |', Limits.httpBodyBytes / 2 ** 20],
      ['| lanes per connection | 256 |', Limits.lanesPerConnection],
      ['| requests waiting per model | 1,024 |', Limits.queuedRequests],
      ['| time in the queue | 60 s |', Limits.queueTimeoutMs / 1000],
      ['| requests waiting in one session | 4 behind', Limits.queuedPerSession],
      ['| sessions | 10,000; 24 h idle |', Limits.sessions],
      ['| 256 per answer, 1 MiB per socket |', Limits.creditEvents],
      ['| an ended answer can be read | 10 min |', Limits.responseRetentionMs / 60_000],
    ];
    for (const [text, value] of rows) {
      expect(readme).toContain(text);
      expect(text.replaceAll(',', '')).toContain(String(value));
    }
  });

  it('links only to files that exist', () => {
    const links = [...readme.matchAll(/\]\(([^)#]+)\)/g)].map((match) => match[1]!);
    expect(links.length).toBeGreaterThan(5);
    expect(links.filter((link) => !/^https?:/.test(link) && !existsSync(join(root, link)))).toEqual([]);
  });
});
