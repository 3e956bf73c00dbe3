// The page's icons, drawn on a 20 by 20 grid with the colour of the text around them.

const paths = {
  plus: 'M10 4v12M4 10h12',
  close: 'M5 5l10 10M15 5L5 15',
  send: 'M10 16V4.5M5 9.2l5-4.9 5 4.9',
  stop: 'M6 6h8v8H6z',
  copy: 'M7.5 7.5h8v8h-8zM12.5 7.5v-3h-8v8h3',
  check: 'M4.5 10.5l3.6 3.6 7.4-8.2',
  again: 'M15.6 8.2A6 6 0 1 0 16 11M16 4.2v4.2h-4.2',
  tune: 'M3.5 6.5h7M14.5 6.5h2M3.5 13.5h2M9.5 13.5h7M12.5 4.5v4M7.5 11.5v4',
  sun: 'M10 6.6a3.4 3.4 0 1 1 0 6.8 3.4 3.4 0 0 1 0-6.8M10 2.6v1.2M10 16.2v1.2M2.6 10h1.2M16.2 10h1.2M4.8 4.8l.8.8M14.4 14.4l.8.8M15.2 4.8l-.8.8M5.6 14.4l-.8.8',
  moon: 'M15.8 11.8A6.4 6.4 0 0 1 8.2 4.2a6.4 6.4 0 1 0 7.6 7.6z',
  info: 'M10 3.2a6.8 6.8 0 1 1 0 13.6 6.8 6.8 0 0 1 0-13.6M10 9.2v4.2M10 6.5v.2',
  down: 'M10 4.5v11M5.3 11l4.7 4.6L14.7 11',
  mark: 'M3 5h3.2c2.8 0 2.6 5 5.4 5M3 10h8.6M3 15h3.2c2.8 0 2.6-5 5.4-5M15 8.1a1.9 1.9 0 1 1 0 3.8 1.9 1.9 0 0 1 0-3.8',
} as const;

export type IconName = keyof typeof paths;

const svgNamespace = 'http://www.w3.org/2000/svg';

/** Makes one icon; assistive technology does not see it, so whatever holds it needs a name. */
export function icon(name: IconName): SVGElement {
  const svg = document.createElementNS(svgNamespace, 'svg');
  svg.setAttribute('viewBox', '0 0 20 20');
  svg.setAttribute('aria-hidden', 'true');
  svg.classList.add('icon', `icon-${name}`);
  const path = document.createElementNS(svgNamespace, 'path');
  path.setAttribute('d', paths[name]);
  svg.append(path);
  return svg;
}
