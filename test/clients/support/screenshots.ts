// Makes the pictures in docs/ with the default model: node test/clients/support/screenshots.ts
import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { ChatPage } from './chat-page.ts';
import { findChromium, launchChromium } from './chromium.ts';
import { RealServer } from './real-server.ts';

const folder = fileURLToPath(new URL('../../../docs/', import.meta.url));
const questions = [
  ['What is the capital of France?', 'Write a short poem about the sea.'],
  ['为什么天空是蓝色的？', '用三句话介绍一下你自己。'],
  ['What is machine learning?', 'Give me three tips for learning a language.'],
  ['请推荐三本好书。', '什么是光合作用？'],
];

const executable = findChromium();
if (executable === null) throw new Error('pictures need a Chromium');
mkdirSync(folder, { recursive: true });
const server = await RealServer.start({});
const browser = await launchChromium(executable);

for (const [name, width, height, colorScheme] of [
  ['web-desktop-light', 1440, 740, 'light'],
  ['web-desktop-dark', 1440, 740, 'dark'],
  ['web-phone', 360, 740, 'light'],
] as const) {
  const chat = await ChatPage.open(browser, server.url, { viewport: { width, height }, colorScheme });
  await chat.openFour();
  for (const round of [0, 1]) {
    for (const [index, asked] of questions.entries()) await chat.ask(index, asked[round] ?? '');
    if (round === 1) break;
    for (let index = 0; index < 4; index++) {
      await chat.page.keyboard.press(`Alt+Digit${index + 1}`);
      await chat.isIn(index, 'done');
    }
  }
  await chat.page.waitForTimeout(250);
  await chat.page.screenshot({ path: `${folder}${name}.png` });
  await chat.close();
}

await browser.close();
await server.stop();
