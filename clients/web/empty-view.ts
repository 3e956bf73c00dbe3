// What an empty chat shows: what the model is, and questions to begin with; or that there is no model.
import type { ModelInfo } from '../index.ts';
import { element } from './dom.ts';

const examples = [
  { language: 'en', text: 'What is the capital of France?' },
  { language: 'zh', text: '为什么天空是蓝色的？' },
  { language: 'en', text: 'Write a short poem about the sea.' },
  { language: 'zh', text: '用三句话介绍一下你自己。' },
];

/** Sends an example when it is chosen. */
export function emptyView(model: ModelInfo | null, send: (text: string) => void): HTMLElement {
  const list = examples.map(({ language, text }) =>
    element(
      'li',
      {},
      element(
        'button',
        { class: 'example', attributes: { type: 'button', lang: language }, on: { click: () => send(text) } },
        text,
      ),
    ),
  );
  return element(
    'div',
    { class: 'empty' },
    element('h2', { class: 'empty-title' }, 'Ask something'),
    ...(model === null ? [] : aboutModel(model)),
    element('ul', { class: 'examples', attributes: { 'aria-label': 'Examples' } }, ...list),
  );
}

/** The last model was unloaded. The page follows by itself when there is one again. */
export function noModelView(): HTMLElement {
  return element(
    'div',
    { class: 'empty' },
    element('h2', { class: 'empty-title' }, 'No model is loaded'),
    element('p', { class: 'empty-note' }, 'Whoever runs this server can load one; then you can go on here.'),
  );
}

function aboutModel(model: ModelInfo): HTMLElement[] {
  const command = element('code', {}, 'MODEL=folder-or-org/name npm start');
  return [
    element('p', { class: 'empty-note' }, modelNote(model)),
    element('p', { class: 'empty-note' }, 'To use another: ', command),
  ];
}

/** One plain sentence on what to expect. The built-in model must not pass for more than it is. */
export function modelNote(model: ModelInfo): string {
  if (isBuiltIn(model)) return 'The built-in model is tiny (26M parameters): it answers quickly and is often wrong.';
  return model.note;
}

export function isBuiltIn(model: ModelInfo): boolean {
  return model.id.includes('minimind2-small');
}
