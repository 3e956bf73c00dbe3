import { describe, expect, it } from 'vitest';
import { localCaller } from '../../../src/auth/caller.ts';
import { requestHints } from '../../../src/http/request-hints.ts';

const hints = (headers: Record<string, string>) =>
  requestHints({ header: (name) => headers[name] ?? '' }, { ...localCaller, class: 'ide' });

describe('Request hints', () => {
  it('are those of the caller without headers', () => {
    expect(hints({})).toEqual({ class: 'ide', deadlineMs: undefined });
  });

  it('take class and deadline from the headers', () => {
    expect(hints({ 'x-tokenwire-class': 'batch', 'x-tokenwire-deadline-ms': '2500' })).toEqual({
      class: 'batch',
      deadlineMs: 2500,
    });
  });

  it.each([
    ['x-tokenwire-class', 'fast'],
    ['x-tokenwire-class', 'Voice'],
    ['x-tokenwire-deadline-ms', '0'],
    ['x-tokenwire-deadline-ms', '-1'],
    ['x-tokenwire-deadline-ms', '1.5'],
    ['x-tokenwire-deadline-ms', 'soon'],
    ['x-tokenwire-deadline-ms', '2147483648'],
    ['x-tokenwire-deadline-ms', '99999999999999'],
  ])('refuse %s: %s by name', (name, value) => {
    expect(() => hints({ [name]: value })).toThrow(expect.objectContaining({ code: 'invalid_request', param: name }));
  });
});
