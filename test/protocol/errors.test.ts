import { describe, expect, it } from 'vitest';
import { errorFromCode, errorFromWire, errorTable, ServiceError, toWireError } from '../../protocol/errors.ts';
import type { ErrorCode } from '../../protocol/errors.ts';

const frames = (error: Error): number => (error.stack ?? '').split('\n    at ').length - 1;

describe('The stack of a ServiceError', () => {
  it('is noted, or where a server turned that off only by internal ones, and other errors keep theirs', () => {
    expect(frames(new ServiceError('overloaded', 'x'))).toBeGreaterThan(0);
    ServiceError.notesStack = false;
    try {
      expect(frames(new ServiceError('overloaded', 'x'))).toBe(0);
      expect(frames(new ServiceError('internal', 'x'))).toBeGreaterThan(0);
      expect(frames(new Error('x'))).toBeGreaterThan(0);
    } finally {
      ServiceError.notesStack = true;
    }
  });
});

describe('ServiceError on the wire', () => {
  it('comes back with its code, message, field and advice', () => {
    for (const code of Object.keys(errorTable) as ErrorCode[]) {
      const error = new ServiceError(code, 'why', { param: 'messages[0]', retryAfterMs: 1500 });
      const back = errorFromWire(toWireError(error));
      expect({ ...back, message: back.message }).toEqual({ ...error, message: error.message });
      expect(toWireError(error).retryable).toBe(errorTable[code].retryable);
    }
  });

  it('leaves out fields it does not have, and its cause always', () => {
    const error = new ServiceError('internal', 'Something failed.', { cause: new Error('a secret') });
    expect(toWireError(error)).toStrictEqual({ code: 'internal', message: 'Something failed.', retryable: false });
  });

  it('becomes internal when the code is unknown, even one that every object inherits', () => {
    for (const code of ['from_the_future', 'toString', '__proto__']) {
      expect(errorFromCode(code, 'x').code).toBe('internal');
      expect(errorFromWire({ code, message: 'x', retryable: true }).code).toBe('internal');
    }
  });

  it('has a close code exactly when it ends the connection', () => {
    for (const [code, row] of Object.entries(errorTable)) {
      expect('close' in row, code).toBe(row.scope === 'connection');
    }
  });
});
