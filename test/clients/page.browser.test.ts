import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { Browser, BrowserContextOptions } from 'playwright-core';
import { Op } from '../../protocol/messages.ts';
import type { CreateOptions } from '../../protocol/messages.ts';
import { ChatPage } from './support/chat-page.ts';
import { findChromium, launchChromium } from './support/chromium.ts';
import { fakeModel, words } from './support/fake-server.ts';
import type { FakeServer, FakeServerOptions } from './support/fake-server.ts';
import { startPageServer } from './support/page-server.ts';
import { until } from './support/until.ts';

const executable = findChromium();
const poem = 'The sea is wide and grey today,\nthe gulls are small and white,\n'.repeat(20);
let browser: Browser;
const servers: FakeServer[] = [];
const pages: ChatPage[] = [];

beforeAll(async () => {
  if (executable !== null) browser = await launchChromium(executable);
});

afterEach(async () => {
  for (const page of pages.splice(0)) {
    await page.close();
    expect(page.problems).toEqual([]);
  }
  for (const server of servers.splice(0)) await server.stop();
});

afterAll(async () => {
  await browser?.close();
});

async function open(
  options: FakeServerOptions = {},
  context: BrowserContextOptions = {},
): Promise<{ server: FakeServer; chat: ChatPage }> {
  const server = await startPageServer(options);
  servers.push(server);
  const chat = await ChatPage.open(browser, `http://127.0.0.1:${server.port}/`, context);
  pages.push(chat);
  return { server, chat };
}

describe.skipIf(executable === null)('The chat page', () => {
  it.each([
    [1440, 'light'],
    [1440, 'dark'],
    [1000, 'light'],
    [360, 'light'],
    [360, 'dark'],
  ] as const)('at %i px in %s fits, shows its chats and follows the colour scheme', async (width, colorScheme) => {
    const { chat } = await open({}, { viewport: { width, height: 760 }, colorScheme });
    await chat.openFour();
    for (let index = 0; index < 4; index++) await chat.ask(index, `${'word '.repeat(30)}${'long'.repeat(40)} ${index}`);
    for (let index = 0; index < 4; index++) await chat.page.keyboard.press(`Alt+Digit${index + 1}`);
    expect(await chat.hasHorizontalScroll()).toBe(false);
    const visible = await chat.page.locator('.pane').filter({ visible: true }).count();
    expect(visible).toBe(width === 360 ? 1 : 4);
    expect(await chat.page.locator('.tab').first().isVisible()).toBe(width === 360);
    const background = await chat.page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    expect(background).toBe(colorScheme === 'dark' ? 'rgb(19, 20, 22)' : 'rgb(244, 243, 239)');
    await chat.page.locator('[aria-label^="Use "]').click();
    const switched = await chat.page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    expect(switched).not.toBe(background);
    await chat.page.reload();
    await chat.connected();
    expect(await chat.page.evaluate(() => getComputedStyle(document.body).backgroundColor)).toBe(switched);
  });

  it('does not move anything while an answer streams, and stays where the reader scrolled to', async () => {
    const { chat } = await open(
      { script: () => ({ pieces: words(poem), pauseMs: 2 }) },
      { viewport: { width: 1000, height: 500 } },
    );
    await chat.ask(0, 'A long poem, please');
    await chat.hasBegun(0);
    const shifts = await chat.watchShifts();
    await chat.isIn(0, 'done');
    const scroller = chat.pane(0).locator('.transcript-scroller');
    const gap = (): Promise<number> =>
      scroller.evaluate((element) => element.scrollHeight - element.clientHeight - element.scrollTop);
    expect(await gap()).toBeLessThan(2);
    await chat.ask(0, 'And another');
    await chat.hasBegun(0);
    await scroller.hover();
    await chat.page.mouse.wheel(0, -300);
    await expect.poll(gap).toBeGreaterThan(100);
    const top = await chat.scrolledTo(0);
    await chat.page.waitForTimeout(300);
    expect(await scroller.evaluate((element) => element.scrollTop)).toBe(top);
    expect(await gap()).toBeGreaterThan(100);
    await chat.pane(0).locator('.to-bottom').click();
    await chat.isIn(0, 'done');
    expect(await gap()).toBeLessThan(2);
    expect(await shifts()).toEqual([]);
  });

  it.each([360, 1000])(
    'moves no figure of an answer when its numbers get more or fewer digits, at %i px',
    async (width) => {
      // Quick, slow, quick: the rate falls from hundreds to a few and rises again; the tokens get three digits.
      const pauseMs = [300, ...Array<number>(30).fill(1), 1500, 1500, 1500, ...Array<number>(120).fill(1)];
      const { chat } = await open(
        { script: () => ({ pieces: pauseMs.map((_, index) => `word${index} `), pauseMs }) },
        { viewport: { width, height: 740 } },
      );
      await chat.ask(0, 'x');
      await chat.hasBegun(0);
      const shifts = await chat.watchShifts();
      await chat.isIn(0, 'done');
      expect(await shifts()).toEqual([]);
    },
  );

  it('can be used with the keyboard alone', async () => {
    let isHeld = true;
    const { server, chat } = await open({
      script: () => ({ pieces: words('one two three four five six'), pauseMs: 20, isHeld: () => isHeld }),
    });
    const { keyboard } = chat.page;
    await keyboard.type('first line');
    await keyboard.press('Shift+Enter');
    await keyboard.type('second line');
    await keyboard.press('Enter');
    await chat.hasBegun(0);
    expect(await chat.pane(0).locator('.question').textContent()).toBe('first line\nsecond line');
    await keyboard.press('Escape');
    await chat.isIn(0, 'cancelled');
    isHeld = false;
    await keyboard.press('Alt+KeyN');
    await keyboard.type('to both');
    await keyboard.press('Control+Enter');
    await Promise.all([chat.isIn(0, 'done'), chat.isIn(1, 'done')]);
    expect(server.peer.messages(Op.Create).length).toBe(3);
    await keyboard.press('Alt+Digit1');
    // From the box back through the answer's buttons: they can be reached and pressed.
    const focused = (): Promise<string | null> =>
      chat.page.evaluate(() => document.activeElement?.getAttribute('aria-label') ?? null);
    for (let step = 0; step < 6 && (await focused()) !== 'Answer again'; step++) await keyboard.press('Shift+Tab');
    expect(await focused()).toBe('Answer again');
    const outline = await chat.page.evaluate(() => getComputedStyle(document.activeElement as Element).outlineStyle);
    expect(outline).toBe('solid');
    isHeld = true;
    await keyboard.press('Enter');
    await chat.isIn(0, 'running');
    isHeld = false;
    await chat.isIn(0, 'done');
    // The settings dialog opens, holds the focus, and Escape closes it without stopping anything.
    for (let step = 0; step < 8 && (await focused()) !== 'Chat settings'; step++) await keyboard.press('Shift+Tab');
    await keyboard.press('Enter');
    await chat.page.locator('dialog[open]').waitFor();
    expect(await chat.page.evaluate(() => document.activeElement?.closest('dialog') !== null)).toBe(true);
    await keyboard.press('Escape');
    await chat.page.locator('dialog[open]').waitFor({ state: 'detached' });
  });

  it('sends what the settings say: the preset first, then what people chose', async () => {
    const { server, chat } = await open();
    await chat.ask(0, 'one');
    await chat.isIn(0, 'done');
    await chat.pane(0).getByRole('button', { name: 'Chat settings' }).click();
    expect(await chat.page.getByLabel('Longest answer').inputValue()).toBe('256');
    await chat.page.getByLabel('System prompt').fill('Answer in French.');
    await chat.page.getByLabel('Temperature').fill('0.2');
    await chat.page.getByLabel('Longest answer').fill('99');
    await chat.page.getByRole('button', { name: 'Save' }).click();
    await chat.ask(0, 'two');
    await until(() => server.peer.messages(Op.Create).length === 2);
    const creates = server.peer.messages(Op.Create).map((message) => message[3] as CreateOptions);
    expect(creates[0]?.sampling).toEqual({ temperature: 0.7, maxTokens: 256 });
    expect(creates[1]?.sampling).toEqual({ temperature: 0.2, maxTokens: 99 });
    const opened = server.peer.messages(Op.OpenSession).map((message) => message[3]);
    expect(opened[1]).toMatchObject({
      system: 'Answer in French.',
      messages: [
        { role: 'user', content: 'one' },
        { role: 'assistant', content: 'one' },
      ],
    });
  });

  it('follows the models of the server, and goes on with another default when its own is gone', async () => {
    const { server, chat } = await open();
    await chat.ask(0, 'one');
    await chat.isIn(0, 'done');
    await chat.pane(0).getByRole('button', { name: 'Chat settings' }).click();
    const picker = chat.page.getByLabel('Model');
    expect(await picker.isVisible()).toBe(false);
    server.peer.send([Op.Models, 0, [fakeModel, { ...fakeModel, id: 'second', aliases: [] }]]);
    await picker.waitFor();
    expect(await picker.locator('option').allTextContents()).toEqual(['fake-model', 'second']);
    expect(await picker.inputValue()).toBe('fake-model');
    await chat.page.keyboard.press('Escape');
    server.peer.send([Op.Models, 0, [{ ...fakeModel, id: 'second', preset: { temperature: 0.3 } }]]);
    await chat.page.locator('.model-line').filter({ hasText: 'second' }).waitFor();
    await chat.ask(0, 'two');
    await until(() => server.peer.messages(Op.Create).length === 2);
    expect(server.peer.messages(Op.OpenSession).map((message) => message[3])).toMatchObject([
      {},
      {
        messages: [
          { role: 'user', content: 'one' },
          { role: 'assistant', content: 'one' },
        ],
      },
    ]);
    expect(server.peer.messages(Op.Create).at(-1)?.[3]).toMatchObject({ sampling: { temperature: 0.3 } });
    server.peer.send([Op.Models, 0, []]);
    await chat.page.keyboard.press('Alt+KeyN');
    await chat.pane(1).getByRole('heading', { name: 'No model is loaded' }).waitFor();
    server.peer.send([Op.Models, 0, [fakeModel]]);
    await chat.pane(1).getByRole('heading', { name: 'Ask something' }).waitFor();
    expect(chat.sockets.length).toBe(1);
  });

  it('shows what a model says as text, never as markup', async () => {
    const evil = '<img src=x onerror="document.title=1"> <b>bold</b>\n\n  &amp; <script>document.title=2</script>';
    const { chat } = await open({ script: () => ({ pieces: words(evil) }) });
    await chat.ask(0, '<i>me</i>');
    await chat.isIn(0, 'done');
    expect(await chat.answerText(0)).toBe(evil);
    expect(await chat.page.locator('.pane img, .pane b, .pane i, .pane script').count()).toBe(0);
    expect(await chat.page.title()).toBe('Tokenwire');
  });

  it('says no more than that it was stopped where nothing had come', async () => {
    const { chat } = await open({ script: () => ({ pieces: ['late'], isHeld: () => true }) });
    await chat.ask(0, 'x');
    await chat.isIn(0, 'running');
    await chat.pane(0).locator('.turn-stats').filter({ hasText: 'waiting for the first token' }).waitFor();
    await chat.page.keyboard.press('Escape');
    await chat.isIn(0, 'cancelled');
    expect(await chat.pane(0).locator('.turn-stats').textContent()).toBe('');
    expect(await chat.answer(0).isVisible()).toBe(false);
    expect(await chat.pane(0).locator('.turn-notice').textContent()).toBe('Stopped.');
  });

  it('says why an answer failed and asks again on request', async () => {
    let isFirst = true;
    const { server, chat } = await open({
      script: () => {
        const error = { code: 'worker_lost', message: 'The worker of this answer ended.' };
        const answer = isFirst ? { pieces: ['half'], error } : { pieces: ['whole'] };
        isFirst = false;
        return answer;
      },
    });
    await chat.ask(0, 'go');
    await chat.isIn(0, 'failed');
    expect(await chat.pane(0).locator('.turn-notice').textContent()).toContain('The worker of this answer ended.');
    await chat.page.getByRole('button', { name: 'Try again' }).click();
    await chat.isIn(0, 'done');
    expect(await chat.answerText(0)).toBe('whole');
    expect(server.peer.messages(Op.Rollback)).toEqual([]);
  });

  it('offers to try again below the last answer only, and says the error as a sentence', async () => {
    const error = { code: 'overloaded', message: 'the queue is full' };
    const { chat } = await open({ script: () => ({ pieces: [], error }) });
    for (const question of ['one', 'two']) {
      await chat.ask(0, question);
      await chat.isIn(0, 'failed');
    }
    const notices = (): Promise<string[]> => chat.page.locator('.turn-notice').allTextContents();
    await expect.poll(notices).toEqual(['The queue is full. ', 'The queue is full. Try again']);
  });

  it('goes on after a reload from the event it had last', async () => {
    let isHeld = true;
    const { server, chat } = await open({
      script: () => ({ pieces: words('one two three four five six'), pauseMs: 20, isHeld: () => isHeld }),
    });
    await chat.ask(0, 'count');
    await chat.hasBegun(0);
    await chat.page.reload();
    await chat.isIn(0, 'running');
    await until(() => server.peer.messages(Op.Resume).length === 1);
    isHeld = false;
    await chat.isIn(0, 'done');
    expect(await chat.answerText(0)).toBe('one two three four five six');
    expect(await chat.pane(0).locator('.turn-notice').textContent()).toBe('');
    const resumed = server.peer.received.flatMap((message) => (message[0] === Op.Resume ? message[3].lastSeq : []));
    expect(resumed).toEqual([expect.any(Number)]);
    expect(resumed[0]).toBeGreaterThan(0);
    // What was taken up counts as a turn: another question goes behind it, and it can be asked again.
    isHeld = true;
    await chat.pane(0).getByRole('button', { name: 'Answer again' }).click();
    await chat.isIn(0, 'running');
    isHeld = false;
    await chat.isIn(0, 'done');
    expect(server.peer.messages(Op.Rollback).map((message) => message[4])).toEqual([0]);
    expect(await chat.pane(0).locator('.turn').count()).toBe(1);
  });

  it('keeps what it had of an answer whose rest is gone after a reload, marked as cut off', async () => {
    const { chat } = await open({
      script: () => ({ pieces: words('one two three four five'), isHeld: () => true }),
      intercept: (message, peer) => {
        if (message[0] !== Op.Resume) return false;
        peer.send([Op.Resumed, message[1], message[2], false, null, message[3].response, null, null]);
        return true;
      },
    });
    await chat.ask(0, 'count');
    await chat.hasBegun(0);
    await chat.page.reload();
    await chat.connected();
    await chat.pane(0).locator('.turn-notice').filter({ hasText: 'Cut off' }).waitFor();
    expect(await chat.pane(0).locator('.question').allTextContents()).toEqual(['count']);
    expect(await chat.answerText(0)).toContain('one');
  });

  it.each([
    ['no position', { question: 'count', answer: 'one' }],
    ['a broken position', { question: 'count', answer: 'one', position: { response: 7 } }],
    ['something else', 'count'],
  ])('starts although the browser remembers %s of an answer under way', async (_, unfinished) => {
    const { chat } = await open();
    await chat.ask(0, 'before');
    await chat.isIn(0, 'done');
    await chat.page.evaluate((value) => {
      const stored = JSON.parse(localStorage.getItem('tokenwire.chats')!) as object[];
      const chats = JSON.stringify([{ ...stored[0], unfinished: value }]);
      // Leaving the page stores what it shows: this comes behind it.
      addEventListener('pagehide', () => localStorage.setItem('tokenwire.chats', chats));
    }, unfinished);
    await chat.page.reload();
    await chat.connected();
    expect(await chat.pane(0).locator('.question').allTextContents()).toEqual(['before']);
    await chat.ask(0, 'after');
    await chat.isIn(0, 'done');
  });

  it('asks for a key when the server wants one, and uses it', async () => {
    const { chat } = await open();
    const server = await startPageServer({
      intercept: (message, peer) => {
        if (message[0] !== Op.Hello || message[3].token === 'right') return false;
        peer.send([Op.Error, 0, null, { code: 'unauthorized', message: 'Wrong key.', retryable: false }]);
        peer.socket.close(1008);
        return true;
      },
    });
    servers.push(server);
    await chat.page.goto(`http://127.0.0.1:${server.port}/`);
    await chat.page.getByLabel('This server asks for a key').fill('right');
    await chat.page.keyboard.press('Enter');
    await chat.connected();
    await chat.ask(0, 'in');
    await chat.isIn(0, 'done');
  });

  it('shows the figures of an answer whole or not at all', async () => {
    const { chat } = await open(
      { script: () => ({ pieces: words(poem), pauseMs: 1 }) },
      { viewport: { width: 1200, height: 760 } },
    );
    await chat.openFour();
    await chat.ask(0, 'x');
    await chat.isIn(0, 'done');
    const figures = await chat.page.locator('.turn-stats').evaluate((line) => {
      const { bottom, right } = line.getBoundingClientRect();
      return [...line.children].map((figure) => {
        const box = figure.getBoundingClientRect();
        return { isShown: box.top < bottom, isWhole: box.right <= right && figure.scrollWidth <= figure.clientWidth };
      });
    });
    expect(figures).toHaveLength(3);
    expect(figures[0]).toEqual({ isShown: true, isWhole: true });
    expect(figures.filter(({ isShown, isWhole }) => isShown && !isWhole)).toEqual([]);
  });

  it('tells assistive technology what things are', async () => {
    let isHeld = true;
    const { chat } = await open({ script: () => ({ pieces: ['a', 'b', 'c'], isHeld: () => isHeld }) });
    await chat.ask(0, 'x');
    await chat.isIn(0, 'running');
    const answer = chat.answer(0);
    expect(await answer.getAttribute('aria-live')).toBe('polite');
    expect(await answer.getAttribute('aria-busy')).toBe('true');
    isHeld = false;
    await chat.isIn(0, 'done');
    expect(await answer.getAttribute('aria-busy')).toBe('false');
    const unnamed = await chat.page.evaluate(() =>
      [...document.querySelectorAll('button, textarea, input, select, [role="log"]')]
        .filter((element) => {
          const labels = (element as HTMLInputElement).labels;
          return !element.getAttribute('aria-label') && !element.textContent?.trim() && !labels?.length;
        })
        .map((element) => element.outerHTML),
    );
    expect(unnamed).toEqual([]);
  });
});
