// Light or dark: the system's choice until someone presses the button, then theirs, kept for the next visit.
import { iconButton, setIconButton } from './dom.ts';
import { icon } from './icons.ts';
import { readStored, writeStored } from './store.ts';

type Theme = 'light' | 'dark';

const systemDark = matchMedia('(prefers-color-scheme: dark)');

function current(): Theme {
  const chosen = readStored('theme');
  if (chosen === 'light' || chosen === 'dark') return chosen;
  return systemDark.matches ? 'dark' : 'light';
}

/** Sets the stored theme and returns the button that switches it. */
export function themeButton(): HTMLButtonElement {
  const button = iconButton(icon('moon'), '', () => {
    writeStored('theme', current() === 'dark' ? 'light' : 'dark');
    apply();
  });
  const apply = (): void => {
    const theme = current();
    document.documentElement.dataset['theme'] = theme;
    const isDark = theme === 'dark';
    setIconButton(button, icon(isDark ? 'sun' : 'moon'), isDark ? 'Use light colours' : 'Use dark colours');
  };
  systemDark.addEventListener('change', apply);
  apply();
  return button;
}
