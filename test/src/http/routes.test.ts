import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { httpPaths } from '../../../src/http/routes.ts';

describe('the endpoints', () => {
  it('all stand in the root README', () => {
    const readme = readFileSync(new URL('../../../README.md', import.meta.url), 'utf8');
    for (const path of httpPaths) expect(readme).toContain(path);
  });
});
