// Where tests keep compiled models: shared by all of them, so that the default model is compiled once per machine, and
// apart from the cache of whoever runs them.
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export const testCache = join(tmpdir(), 'tokenwire-test-cache');
