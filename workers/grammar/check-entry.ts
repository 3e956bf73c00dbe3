// Entry of the thread that checks grammars (src/engine/grammar-thread.ts starts it). Its priority first: loading the rest
// takes longer than most checks, and running streams should not feel that either.
import { setPriority } from 'node:os';
import { workerData } from 'node:worker_threads';
import type { GrammarCheckData } from '../messages/grammar.ts';

// On Linux the priority is the thread's own; elsewhere it would be the process's.
if (process.platform === 'linux') setPriority((workerData as GrammarCheckData).niceness);
await import('./check-thread.ts');
