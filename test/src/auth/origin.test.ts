import { describe, expect, it } from 'vitest';
import { isLoopback, OriginPolicy } from '../../../src/auth/origin.ts';

const local = new OriginPolicy({ host: '127.0.0.1', allowedOrigins: ['https://chat.example.org'], hasKeys: false });
const open = new OriginPolicy({ host: '0.0.0.0', allowedOrigins: [], hasKeys: false });
const keyed = new OriginPolicy({ host: '0.0.0.0', allowedOrigins: [], hasKeys: true });

describe('OriginPolicy', () => {
  it.each([
    'localhost',
    'localhost:8080',
    '127.0.0.1:80',
    '[::1]:8080',
    'app.localhost',
    'LOCALHOST:1',
    'chat.example.org',
  ])('serves the Host %s on loopback', (host) => expect(local.isHostAllowed(host)).toBe(true));

  it.each([
    '',
    'evil.example',
    'evil.example:8080',
    '10.0.0.1',
    'localhost.evil.example',
    '127.0.0.1.evil.example',
    ':80',
  ])('refuses the Host %j on loopback', (host) => expect(local.isHostAllowed(host)).toBe(false));

  it('serves any address but no unknown name when open to the network without keys', () => {
    expect(open.isHostAllowed('192.168.1.4:8080')).toBe(true);
    expect(open.isHostAllowed('[fe80::1]:8080')).toBe(true);
    expect(open.isHostAllowed('evil.example')).toBe(false);
  });

  it('serves any name when outsiders need a key', () => {
    expect(keyed.isHostAllowed('llm.example.org')).toBe(true);
  });

  it('lets programs, its own pages and listed origins in', () => {
    expect(local.isOriginAllowed('', '127.0.0.1:8080')).toBe(true);
    expect(local.isOriginAllowed('http://127.0.0.1:8080', '127.0.0.1:8080')).toBe(true);
    expect(local.isOriginAllowed('https://Chat.example.org', '127.0.0.1:8080')).toBe(true);
    expect(keyed.isOriginAllowed('https://llm.example.org', 'llm.example.org:443')).toBe(true);
  });

  it.each([
    'http://evil.example',
    'null',
    'http://127.0.0.1:9999',
    'nonsense',
    'https://chat.example.org.evil.example',
  ])('refuses the Origin %s', (origin) => {
    expect(local.isOriginAllowed(origin, '127.0.0.1:8080')).toBe(false);
    expect(() => local.check(origin, '127.0.0.1:8080')).toThrow(expect.objectContaining({ code: 'not_allowed' }));
  });

  it('lets every origin in with *, but still checks Host', () => {
    const any = new OriginPolicy({ host: '127.0.0.1', allowedOrigins: ['*'], hasKeys: false });
    expect(any.isOriginAllowed('http://evil.example', 'localhost')).toBe(true);
    expect(() => any.check('http://evil.example', 'evil.example')).toThrow(/Host/);
  });

  it('knows loopback names and addresses', () => {
    expect(['localhost', '127.1.2.3', '::1', '[::1]'].every(isLoopback)).toBe(true);
    expect(['0.0.0.0', '::', '10.0.0.1', '127.evil.example'].some(isLoopback)).toBe(false);
  });
});
