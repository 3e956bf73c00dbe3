import { describe, expect, it } from 'vitest';
import { formatHubName, parseHubName } from '../../../../workers/model/hub/hub-id.ts';

describe('names of models on the hub', () => {
  it.each([
    ['org/name', 'org/name', 'main'],
    ['hub:org/name', 'org/name', 'main'],
    ['Org-1/a.b_c-2@v1.0', 'Org-1/a.b_c-2', 'v1.0'],
    ['org/name@refs/pr/12', 'org/name', 'refs/pr/12'],
    [`hub:org/name@${'a'.repeat(40)}`, 'org/name', 'a'.repeat(40)],
  ])('reads %s', (text, id, revision) => {
    expect(parseHubName(text)).toEqual({ id, revision });
    expect(parseHubName(formatHubName({ id, revision }))).toEqual({ id, revision });
  });

  it.each([
    '',
    'name',
    '/org/name',
    './org/name',
    '../name',
    'org/..',
    'org/a..b',
    'org/name/more',
    'org/name@',
    'org/name@../main',
    'org/name@a//b',
    'org/name@-x',
    'org/name@a b',
    'org/name@a.lock',
    'org/-name',
    'org/name.git',
    'o--g/name',
    'org/na me',
    'org/n%61me',
    `org/${'n'.repeat(100)}`,
    '@scope/name',
    'https://huggingface.co/org/name',
  ])('takes %j for none, and refuses it with hub: in front', (text) => {
    expect(parseHubName(text)).toBeNull();
    expect(() => parseHubName(`hub:${text}`)).toThrow('is written hub:org/name');
  });
});
