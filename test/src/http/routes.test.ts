import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { httpPaths } from '../../../src/http/routes.ts';

describe('the endpoints', () => {
  it('all stand in the root README', () => {
    const readme = readFileSync(new URL('../../../README.md', import.meta.url), 'utf8');
    const table = readme.slice(readme.indexOf('## Endpoints'), readme.indexOf('## Settings'));
    const listed = [...table.matchAll(/`[^`]*?(\/[\w/{}]*)`/g)].map((match) => match[1]!);
    expect(listed.length).toBeGreaterThan(10);
    for (const path of httpPaths) expect(listed).toContain(path);
    // And nothing that is not there; the stream and the page are no rows of the table of endpoints.
    const others = ['/v1/stream', '/', '/sdk.js'];
    expect(listed.filter((path) => !httpPaths.includes(path) && !others.includes(path))).toEqual([]);
  });
});
