// The chat page as a person uses it, for browser tests: opens it, asks, reads, and notes what must not happen.
import type { Browser, BrowserContext, BrowserContextOptions, Locator, Page, WebSocket } from 'playwright-core';

export class ChatPage {
  readonly page: Page;
  readonly context: BrowserContext;
  /** Every WebSocket the page ever opened. */
  readonly sockets: WebSocket[] = [];
  /** Console errors, policy violations and exceptions. */
  readonly problems: string[] = [];

  private constructor(context: BrowserContext, page: Page) {
    this.context = context;
    this.page = page;
    page.on('websocket', (socket) => this.sockets.push(socket));
    page.on('pageerror', (error) => this.problems.push(error.message));
    page.on('console', (message) => {
      if (message.type() === 'error') this.problems.push(message.text());
    });
  }

  static async open(browser: Browser, url: string, options: BrowserContextOptions = {}): Promise<ChatPage> {
    const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options });
    const page = new ChatPage(context, await context.newPage());
    page.page.setDefaultTimeout(90_000);
    await page.page.goto(url);
    await page.connected();
    return page;
  }

  async connected(): Promise<void> {
    await this.page.locator('.dot[data-state="open"]').waitFor();
  }

  pane(index: number): Locator {
    return this.page.locator('.pane').nth(index);
  }

  answer(index: number): Locator {
    return this.pane(index).locator('[data-role="answer"]').last();
  }

  async answerText(index: number): Promise<string> {
    return (await this.answer(index).textContent()) ?? '';
  }

  /** Types into a chat and sends, by keyboard. */
  async ask(index: number, text: string): Promise<void> {
    await this.page.keyboard.press(`Alt+Digit${index + 1}`);
    await this.page.keyboard.insertText(text);
    await this.page.keyboard.press('Enter');
  }

  async openFour(): Promise<void> {
    for (let count = 1; count < 4; count++) await this.page.keyboard.press('Alt+KeyN');
    await this.pane(3).waitFor();
  }

  /** The last turn of the chat is in this state. */
  async isIn(index: number, state: 'running' | 'done' | 'cancelled' | 'failed'): Promise<void> {
    await this.pane(index).locator(`.turn:last-child[data-state="${state}"]`).waitFor();
  }

  /** Some text of the answer is there. */
  async hasBegun(index: number): Promise<void> {
    await this.pane(index).locator('.turn:last-child [data-role="answer"]').filter({ hasText: /\S/ }).waitFor();
  }

  /** The answer has grown beyond that, or is complete. */
  async isLongerThan(index: number, numChars: number): Promise<void> {
    await this.page.waitForFunction(
      ([pane, chars]) => {
        const turn = document.querySelectorAll('.pane')[pane]?.querySelector('.turn:last-child');
        const text = turn?.querySelector('[data-role="answer"]')?.textContent ?? '';
        return text.length > chars || turn?.getAttribute('data-state') === 'done';
      },
      [index, numChars] as const,
    );
  }

  /** Where the transcript stands, once it has stood there for some frames. */
  scrolledTo(index: number): Promise<number> {
    return this.pane(index)
      .locator('.transcript-scroller')
      .evaluate(async (element) => {
        for (let top = element.scrollTop, still = 0; still < 10; still++) {
          await new Promise((resolve) => requestAnimationFrame(resolve));
          if (element.scrollTop !== top) still = 0;
          top = element.scrollTop;
        }
        return element.scrollTop;
      });
  }

  hasHorizontalScroll(): Promise<boolean> {
    return this.page.evaluate(() => {
      const { scrollWidth, clientWidth } = document.documentElement;
      const isWide = [
        ...document.querySelectorAll('.app, .bar, .pane, .transcript-scroller, .transcript-content'),
      ].some((element) => element.clientWidth > 0 && element.scrollWidth > element.clientWidth);
      return scrollWidth > clientWidth || isWide;
    });
  }

  /** What the browser says has moved from now on, each with how far; input does not excuse any. */
  async watchShifts(): Promise<() => Promise<string[]>> {
    await this.page.evaluate(() => {
      const store = globalThis as unknown as { shifts: string[] };
      store.shifts = [];
      new PerformanceObserver((list) => {
        for (const entry of list.getEntries() as LayoutShift[]) {
          for (const { node, previousRect: from, currentRect: to } of entry.sources) {
            const name =
              node instanceof Element ? node.outerHTML.slice(0, 80) : (node?.textContent ?? 'something gone');
            store.shifts.push(`${name}: ${to.x - from.x}, ${to.y - from.y}`);
          }
        }
      }).observe({ type: 'layout-shift' });
    });
    return () => this.page.evaluate(() => (globalThis as unknown as { shifts: string[] }).shifts);
  }

  close(): Promise<void> {
    return this.context.close();
  }
}

/** The browser's entry type, which TypeScript's library does not have. */
interface LayoutShift extends PerformanceEntry {
  sources: { node: Node | null; previousRect: DOMRectReadOnly; currentRect: DOMRectReadOnly }[];
}
