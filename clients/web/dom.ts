// Small helpers to build DOM without HTML strings: text from people and models only ever becomes text nodes.

type Child = Node | string | null;

interface Properties {
  class?: string;
  /** Attributes; null or false leaves one out, true sets it empty. */
  attributes?: Record<string, string | number | boolean | null>;
  on?: { [Type in keyof HTMLElementEventMap]?: (event: HTMLElementEventMap[Type]) => void };
}

/** Makes an element with classes, attributes, listeners and children. */
export function element<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  properties: Properties = {},
  ...children: Child[]
): HTMLElementTagNameMap[Tag] {
  const made = document.createElement(tag);
  if (properties.class !== undefined) made.className = properties.class;
  for (const [name, value] of Object.entries(properties.attributes ?? {})) {
    if (value === null || value === false) continue;
    made.setAttribute(name, value === true ? '' : String(value));
  }
  for (const [type, listener] of Object.entries(properties.on ?? {})) {
    made.addEventListener(type, listener as EventListener);
  }
  for (const child of children) if (child !== null) made.append(child);
  return made;
}

/** A button with an icon and a name for those who cannot see it; the name is its tooltip too. */
export function iconButton(icon: SVGElement, label: string, onClick: () => void, className = ''): HTMLButtonElement {
  return element(
    'button',
    {
      class: `icon-button ${className}`.trim(),
      attributes: { type: 'button', 'aria-label': label, title: label },
      on: { click: onClick },
    },
    icon,
  );
}

/** Changes icon and name of an `iconButton`. */
export function setIconButton(button: HTMLButtonElement, icon: SVGElement, label: string): void {
  button.replaceChildren(icon);
  button.setAttribute('aria-label', label);
  button.title = label;
}

let numIds = 0;

/** An id for label/for and aria references. */
export function uniqueId(prefix: string): string {
  return `${prefix}-${++numIds}`;
}
