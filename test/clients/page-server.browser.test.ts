// The page on the real server, with the fake model where the test needs time, and once with the default model.
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { Browser, BrowserContextOptions } from 'playwright-core';
import { ChatPage } from './support/chat-page.ts';
import { findChromium, launchChromium } from './support/chromium.ts';
import { TcpProxy } from '../../clients/demos/tcp-proxy.ts';
import { RealServer } from './support/real-server.ts';
import { until } from './support/until.ts';

const executable = findChromium();
let browser: Browser;
let server: RealServer;
const pages: ChatPage[] = [];

/** A prompt whose answer has about this many words, at 8 ms a letter: whether a stream still runs is not left to chance. */
const saying = (numWords: number): string => `!!say ${'again and '.repeat(numWords / 2)}!!`;

async function open(context: BrowserContextOptions = {}, url = server.url): Promise<ChatPage> {
  const chat = await ChatPage.open(browser, url, context);
  pages.push(chat);
  return chat;
}

async function closePages(): Promise<void> {
  for (const page of pages.splice(0)) {
    await page.close();
    // The browser itself reports refused connections while the server is down.
    expect(page.problems.filter((problem) => !problem.includes('WebSocket connection'))).toEqual([]);
  }
}

beforeAll(async () => {
  if (executable !== null) browser = await launchChromium(executable);
});

afterAll(async () => {
  await browser?.close();
});

describe.skipIf(executable === null)('The chat page on the server with the fake model', () => {
  beforeAll(async () => {
    server = await RealServer.start({ MODEL: 'fake:stepMs=8' });
  });
  afterEach(closePages);
  afterAll(() => server.stop());

  it('streams four chats at once over exactly one socket', async () => {
    const chat = await open();
    await chat.openFour();
    await chat.page.keyboard.insertText(saying(100));
    await chat.page.keyboard.press('Control+Enter');
    for (let index = 0; index < 4; index++) await chat.hasBegun(index);
    expect(await chat.page.locator('.pane[data-running="true"]').count()).toBe(4);
    for (let index = 0; index < 4; index++) await chat.isIn(index, 'done');
    const texts = await Promise.all([0, 1, 2, 3].map((index) => chat.answerText(index)));
    expect(texts.every((text) => text.length > 0)).toBe(true);
    expect(await chat.pane(0).locator('.turn-stats').textContent()).toMatch(/^\d+ tok\/s TTFT \d+ ms \d+ tokens$/);
    expect(chat.sockets.map((socket) => socket.url())).toEqual([`ws://127.0.0.1:${server.port}/v1/stream`]);
  });

  it('stops, answers again and copies', async () => {
    const chat = await open();
    await chat.context.grantPermissions(['clipboard-read', 'clipboard-write'], { origin: server.url });
    await chat.ask(0, saying(100));
    await chat.hasBegun(0);
    await chat.pane(0).getByRole('button', { name: 'Stop (Escape)' }).click();
    await chat.isIn(0, 'cancelled');
    const stopped = await chat.answerText(0);
    await chat.page.waitForTimeout(200);
    expect(await chat.answerText(0)).toBe(stopped);
    await chat.pane(0).getByRole('button', { name: 'Answer again' }).click();
    await chat.isIn(0, 'done');
    const whole = await chat.answerText(0);
    expect(whole.length).toBeGreaterThan(stopped.length);
    expect(await chat.pane(0).locator('.turn').count()).toBe(1);
    await chat.pane(0).getByRole('button', { name: 'Copy answer' }).click();
    await chat.pane(0).getByRole('button', { name: 'Copied' }).waitFor();
    expect(await chat.page.evaluate(() => navigator.clipboard.readText())).toBe(whole);
  });

  it('brings the chats back after a reload', async () => {
    const chat = await open();
    await chat.ask(0, 'remember the first');
    await chat.page.keyboard.press('Alt+KeyN');
    await chat.ask(1, 'remember the second');
    await Promise.all([chat.isIn(0, 'done'), chat.isIn(1, 'done')]);
    const before = [await chat.answerText(0), await chat.answerText(1)];
    await chat.page.reload();
    await chat.connected();
    await chat.pane(1).locator('.turn').waitFor();
    expect([await chat.answerText(0), await chat.answerText(1)]).toEqual(before);
    await chat.ask(0, 'and go on');
    await chat.isIn(0, 'done');
    await chat.page.reload();
    await chat.connected();
    expect(await chat.pane(0).locator('.question').allTextContents()).toEqual(['remember the first', 'and go on']);
  });

  it('left in the middle of an answer goes on with it in every chat, twice, and shows what the server has', async () => {
    const chat = await open();
    await chat.openFour();
    await chat.page.keyboard.insertText(saying(100));
    await chat.page.keyboard.press('Control+Enter');
    for (let index = 0; index < 4; index++) await chat.hasBegun(index);
    for (let count = 0; count < 2; count++) {
      const before = await chat.answerText(3);
      await chat.page.reload();
      await chat.connected();
      expect(await chat.pane(3).locator('.turn').count()).toBe(1);
      expect(await chat.answerText(3)).toContain(before);
      await chat.isLongerThan(3, before.length);
    }
    for (let index = 0; index < 4; index++) await chat.isIn(index, 'done');
    const shown = await Promise.all([0, 1, 2, 3].map((index) => chat.answerText(index)));
    await chat.page.reload();
    await chat.connected();
    for (let index = 0; index < 4; index++) {
      await chat.pane(index).locator('.turn').waitFor();
      expect(await chat.pane(index).locator('.question').allTextContents()).toEqual([saying(100)]);
      expect(await chat.answerText(index)).toBe(shown[index]);
    }
    await chat.pane(0).locator('[aria-label="Answer again"]').click();
    await chat.isIn(0, 'running');
    await chat.isIn(0, 'done');
    expect(await chat.pane(0).locator('.turn').count()).toBe(1);
  });

  it('shows an answer that ended while the page was away, and stops one that it took up', async () => {
    const chat = await open();
    await chat.ask(0, saying(60));
    await chat.hasBegun(0);
    await chat.page.goto('about:blank');
    await chat.page.waitForTimeout(1500);
    await chat.page.goto(server.url);
    await chat.isIn(0, 'done');
    expect(await chat.answerText(0)).toContain('again and again');
    await chat.ask(0, saying(400));
    await chat.hasBegun(0);
    await chat.page.reload();
    await chat.isIn(0, 'running');
    await chat.connected();
    await chat.pane(0).getByRole('button', { name: 'Stop (Escape)' }).click();
    await chat.isIn(0, 'cancelled');
    await chat.ask(0, 'and go on');
    await chat.isIn(0, 'done');
    expect(await chat.pane(0).locator('.turn').count()).toBe(3);
  });

  it('goes on with an answer when the network is killed in the middle, and shows the same text as the server has', async () => {
    const proxy = await TcpProxy.start(server.port);
    try {
      const chat = await open({}, `http://127.0.0.1:${proxy.port}`);
      await chat.ask(0, saying(400));
      await chat.hasBegun(0);
      for (let count = 0; count < 2; count++) {
        const before = await chat.answerText(0);
        const numSockets = chat.sockets.length;
        const isNoticed = chat.pane(0).locator('.turn-notice').filter({ hasText: 'goes on when it is back' }).waitFor();
        proxy.cut(1500);
        await isNoticed;
        await until(() => chat.sockets.length > numSockets && proxy.numLines > 0);
        if (count === 0) await chat.isLongerThan(0, before.length);
      }
      await chat.isIn(0, 'done');
      const shown = await chat.answerText(0);
      // The page reloads from the server's history.
      await chat.page.reload();
      await chat.connected();
      await chat.pane(0).locator('.turn').waitFor();
      expect(await chat.answerText(0)).toBe(shown);
      expect(await chat.pane(0).locator('.turn').count()).toBe(1);
    } finally {
      await proxy.stop();
    }
  });

  it('shows a banner when the server is killed, and recovers by itself with the chat intact', async () => {
    const chat = await open({ viewport: { width: 1000, height: 700 } });
    await chat.ask(0, 'before');
    await chat.isIn(0, 'done');
    await chat.ask(0, saying(100));
    await chat.hasBegun(0);
    await server.kill();
    await chat.pane(0).locator('.turn-notice').filter({ hasText: 'goes on when it is back' }).waitFor();
    await chat.isIn(0, 'running');
    const banner = chat.page.locator('.banner');
    await banner.filter({ hasText: 'Connection lost' }).waitFor();
    // Which of the two comes last depends on whether the model was loaded before the page was back.
    const isBack = banner.filter({ hasText: /Connected again|The model is ready/ }).waitFor();
    await Promise.all([server.restart(), isBack]);
    await chat.isIn(0, 'failed');
    await chat.pane(0).locator('.turn-notice').filter({ hasText: 'no longer has the rest' }).waitFor();
    await chat.pane(0).getByRole('button', { name: 'Try again' }).click();
    await chat.isIn(0, 'done');
    await banner.waitFor({ state: 'hidden' });
    await chat.page.reload();
    await chat.connected();
    expect(await chat.pane(0).locator('.question').allTextContents()).toEqual(['before', saying(100)]);
  });
});

describe.skipIf(executable === null)('The chat page on the server with the default model', () => {
  beforeAll(async () => {
    server = await RealServer.start({});
  });
  afterEach(closePages);
  afterAll(() => server.stop());

  it('answers in four chats on a phone, over one socket and without moving anything', async () => {
    const chat = await open({ viewport: { width: 360, height: 740 } });
    await chat.openFour();
    const shifts = await chat.watchShifts();
    const questions = ['What is the capital of France?', '为什么天空是蓝色的？', 'Write a short poem.', '你好'];
    for (const [index, question] of questions.entries()) await chat.ask(index, question);
    for (let index = 0; index < 4; index++) {
      await chat.page.keyboard.press(`Alt+Digit${index + 1}`);
      await chat.isIn(index, 'done');
      expect((await chat.answerText(index)).length).toBeGreaterThan(1);
    }
    expect(await chat.hasHorizontalScroll()).toBe(false);
    expect(await shifts()).toEqual([]);
    expect(chat.sockets.length).toBe(1);
    expect(await chat.page.locator('.model-line').textContent()).toContain('minimind2-small');
  }, 600_000);
});
