import { describe, expect, it } from 'vitest';
import { ServiceError } from '../../../protocol/errors.ts';
import { KeyRing } from '../../../src/auth/keys.ts';

const ring = new KeyRing([
  { tenant: 'local', key: 'first' },
  { tenant: 'team', key: 'second' },
]);

describe('KeyRing', () => {
  it('makes everybody the local caller without keys', () => {
    const open = new KeyRing([]);
    expect(open.isOpen).toBe(true);
    expect(open.callerOfHeader('').tenant).toBe('local');
    expect(open.callerOfHeader('Bearer anything').tenant).toBe('local');
    expect(open.callerOfToken(null).tenant).toBe('local');
  });

  it('finds the tenant of a key', () => {
    expect(ring.callerOfHeader('Bearer first').tenant).toBe('local');
    expect(ring.callerOfHeader('bearer second').tenant).toBe('team');
    expect(ring.callerOfToken('second').tenant).toBe('team');
    expect(ring.callerOfToken('second').keyId).not.toContain('second');
  });

  it.each(['', 'first', 'Basic Zmlyc3Q6', 'Bearer', 'Bearer third', 'Bearer firs', 'Bearer firstt', 'Bearer a b'])(
    'refuses the header %j',
    (header) => {
      expect(() => ring.callerOfHeader(header)).toThrow(ServiceError);
      expect(() => ring.callerOfHeader(header)).toThrow(/key|Authorization/);
    },
  );

  it('does not take a longer token for the longest key it begins with', () => {
    const longest = 'k'.repeat(1024);
    const keyed = new KeyRing([{ tenant: 'local', key: longest }]);
    expect(keyed.callerOfToken(longest).tenant).toBe('local');
    expect(() => keyed.callerOfToken(`${longest}x`)).toThrow(expect.objectContaining({ code: 'unauthorized' }));
  });

  it('refuses missing, empty and endless tokens', () => {
    for (const token of [null, '', 'x'.repeat(1_000_000)]) {
      expect(() => ring.callerOfToken(token)).toThrow(expect.objectContaining({ code: 'unauthorized' }));
    }
  });
});

describe('KeyRing with operators', () => {
  const admin = { tenant: 'ops', key: 'root-key' };
  it('lets everybody on this machine be one while there are no keys at all', () => {
    expect(operator(new KeyRing([], [], true), '')).toBe('local');
    expect(operator(new KeyRing([], [], true), 'Bearer anything')).toBe('local');
    expect(operator(new KeyRing([], [], false), '')).toBe('not_allowed');
  });

  it('knows them by their keys, which are good for chatting too', () => {
    const both = new KeyRing([{ tenant: 'a', key: 'chat-key' }], [admin], true);
    expect(operator(both, 'Bearer root-key')).toBe('ops');
    expect(operator(both, 'Bearer chat-key')).toBe('not_allowed');
    expect(operator(both, 'Bearer wrong')).toBe('unauthorized');
    expect(operator(both, '')).toBe('unauthorized');
    expect(both.callerOfToken('root-key').tenant).toBe('ops');
    expect(both.callerOfHeader('Bearer chat-key').tenant).toBe('a');
    expect(operator(new KeyRing([{ tenant: 'a', key: 'chat-key' }], [], true), 'Bearer chat-key')).toBe('not_allowed');
  });

  it('leaves chatting open where only operators have keys', () => {
    const open = new KeyRing([], [admin], true);
    expect(open.isOpen).toBe(true);
    for (const header of ['', 'Bearer wrong', 'nonsense']) expect(operator(open, header)).toBe('not_allowed');
    expect(open.callerOfHeader('').tenant).toBe('local');
    expect(open.callerOfToken('wrong').tenant).toBe('local');
    expect(operator(open, 'Bearer root-key')).toBe('ops');
  });
});

function operator(keys: KeyRing, header: string): string {
  try {
    return keys.operatorOfHeader(header).tenant;
  } catch (error) {
    return (error as { code: string }).code;
  }
}
