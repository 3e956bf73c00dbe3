// Entry of an engine worker: the endless Piscina task. It returns only when told to stop, since ending a thread inside
// a run would abort the process; an exception here means "worker lost" to the main thread.
import { Engine } from './engine.ts';
import { Grammars } from './grammar/grammars.ts';
import { Ctl, SOLO_WORKER } from './messages/shared.ts';
import type { FromWorker } from './messages/events.ts';
import type { WorkerInit } from './messages/requests.ts';
import { openModel } from './model/open-model.ts';
import { TextModel } from './text/text-model.ts';

export default async function run(init: WorkerInit): Promise<void> {
  const started = performance.now();
  const text = init.model.kind === 'fake' ? TextModel.bytes() : TextModel.load(init.model.textDir);
  const model = await openModel(init.model, init.shared, init.layout, {
    threads: init.threads,
    // The cores of workers that have nothing to decode.
    threadsAlone: init.threads * init.layout.numWorkers,
    // Nobody waits for what only makes it faster: that is opened as soon as there is nothing to do.
    inParts: true,
    role: init.index === 0 ? 'both' : 'decode',
    decodeAlone: init.solo && init.index === SOLO_WORKER,
    verify: init.speculation,
  });
  const engine = new Engine(init, model, text, await Grammars.load(text, model.vocabSize));
  const ctl = new Int32Array(init.ctl);
  init.port.postMessage({ op: 'ready', index: init.index, loadMs: performance.now() - started } satisfies FromWorker);
  while (Atomics.load(ctl, Ctl.stop) === 0) {
    Atomics.add(ctl, Ctl.beats, 1);
    Atomics.store(ctl, Ctl.busy, 1);
    const idleMs = engine.step();
    Atomics.store(ctl, Ctl.busy, 0);
    if (idleMs > 0 && !engine.openNext()) Atomics.wait(ctl, Ctl.mail, engine.seenMail, idleMs);
  }
  engine.close();
  model.dispose();
  init.port.close();
}
