// Which models there are and what they answer to: ids, aliases and `default`, each of one model only. A list and its rules;
// what happens to the models is models.ts's business.
import { ServiceError } from '../../protocol/errors.ts';
import type { ModelInfo } from '../../protocol/messages.ts';
import type { CompiledModel } from '../../workers/messages/models.ts';
import type { ModelSource } from './model-admin.ts';
import type { ServedModel } from './served-model.ts';

const DEFAULT = 'default';

export class ModelNames {
  /** The default first; draining and failed ones too. */
  readonly all: ServedModel[] = [];

  add(model: ServedModel): void {
    this.all.push(model);
  }

  remove(model: ServedModel): void {
    const index = this.all.indexOf(model);
    if (index >= 0) this.all.splice(index, 1);
    this.review();
  }

  /** The first that is or will be ready. */
  get default(): ServedModel | undefined {
    return this.all.find((model) => model.isReady) ?? this.all.find(({ state }) => state === 'loading');
  }

  makeDefault(model: ServedModel): void {
    this.all.splice(this.all.indexOf(model), 1);
    this.all.unshift(model);
    this.review();
  }

  /** By id, alias or `default`: of those that serve or will. */
  find(name: string): ServedModel | undefined {
    if (name === DEFAULT) return this.default;
    return this.all.find((model) => isLive(model) && answersTo(model, name));
  }

  /** Also what drains or has failed, and what is known by its specification only. */
  findAny(name: string): ServedModel | undefined {
    return (
      this.find(name) ??
      this.all.find((model) => answersTo(model, name)) ??
      this.all.find(({ source }) => source.spec === name)
    );
  }

  /** The model that this source would be: by the id it asks for, else by its specification. */
  known(source: ModelSource): ServedModel | undefined {
    const here = this.all.filter(({ state }) => state !== 'draining');
    if (source.id !== undefined) return here.find(({ model }) => model.id === source.id);
    return here.find((model) => keyOf(model.source) === keyOf(source));
  }

  /** Throws `conflict`. */
  assertFree(names: readonly (string | undefined)[], except: ServedModel | null): void {
    for (const name of names) {
      const isTaken =
        name === DEFAULT || this.all.some((model) => model !== except && isLive(model) && answersTo(model, name));
      if (name !== undefined && isTaken) throw conflict(`the name ${name} is taken`);
    }
  }

  /** What the world is told of it. Names that the model has by itself give way to those that others were given. */
  describe(model: ServedModel, source: ModelSource, compiled: CompiledModel, contextLength: number): ModelInfo {
    const { info } = compiled;
    const id = source.id ?? info.id;
    const others = this.all.filter((each) => each !== model && isLive(each));
    const own = [...info.aliases, info.id].filter((name) => !others.some((each) => answersTo(each, name)));
    const names = new Set([...own, ...(source.aliases ?? []), ...(model === this.default ? [DEFAULT] : [])]);
    names.delete(id);
    return { ...info, id, aliases: [...names], contextLength };
  }

  /** `default` is an alias of one: call after any change of a model's state. */
  review(): void {
    for (const model of this.all) {
      const { aliases } = model.model;
      const isDefault = model === this.default;
      if (aliases.includes(DEFAULT) === isDefault) continue;
      const others = aliases.filter((alias) => alias !== DEFAULT);
      model.rename({ ...model.model, aliases: isDefault ? [...others, DEFAULT] : others });
    }
  }
}

export function conflict(message: string): ServiceError {
  return new ServiceError('conflict', message);
}

/** What a model is known by from one reload to the next. */
export function keyOf({ id, spec }: ModelSource): string {
  return id ?? spec;
}

function isLive({ state }: ServedModel): boolean {
  return state !== 'draining' && state !== 'failed';
}

function answersTo({ model }: ServedModel, name: string | undefined): boolean {
  return name !== undefined && (model.id === name || model.aliases.includes(name));
}
