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

  it('refuses missing, empty and endless tokens', () => {
    for (const token of [null, '', 'x'.repeat(1_000_000)]) {
      expect(() => ring.callerOfToken(token)).toThrow(expect.objectContaining({ code: 'unauthorized' }));
    }
  });
});
