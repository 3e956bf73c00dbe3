// A worker thread of minimind.model.test.ts: opens the model over the shared KV memory, prefills its slot and
// decodes greedily, then posts what it found.
import { parentPort, workerData } from 'node:worker_threads';
import type { CompiledModel } from '../../../workers/messages/models.ts';
import type { EngineShared, SlotLayout } from '../../../workers/messages/shared.ts';
import { openModel } from '../../../workers/model/open-model.ts';
import { greedy } from './kit.ts';

export interface ThreadJob {
  compiled: CompiledModel;
  shared: EngineShared;
  layout: SlotLayout;
  slot: number;
  prompt: number[];
  steps: number;
}

const { compiled, shared, layout, slot, prompt, steps } = workerData as ThreadJob;
const model = await openModel(compiled, shared, layout, { threads: 1, role: 'both' });
const answer = greedy(model, slot, prompt, steps, []);
parentPort!.postMessage({ answer, hookMisses: model.hookMisses });
model.dispose();
