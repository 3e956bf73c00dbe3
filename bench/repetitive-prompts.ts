// Prompts of bench `speculate`, written for it: tasks whose answer repeats much of the prompt, and ordinary questions.

const NOTICE =
  'The library opens at nine in the morning and closes at six in the evening. On Saturdays it opens at ten. ' +
  'Members may borrow six books for three weeks. Please bring your card, and leave food and drinks at the door.';
const LETTER =
  'Dear Anna, thank you for your letter. We arrived in Lisbon on Monday and the weather has been warm. ' +
  'The children like the trams and the river. We will come home on the fourth of May and call you then.';
const CODE = `function total(prices) {
  let sum = 0;
  for (const price of prices) {
    if (price < 0) throw new Error('a price below zero');
    sum += price;
  }
  return sum;
}`;
const LIST =
  '- bread: two loaves\n- milk: one litre\n- apples: six\n- cheese: 200 grams\n- rice: one bag\n- tea: one box';
const NOTICE_ZH =
  '图书馆早上九点开门，晚上六点关门。星期六十点开门。会员可以借六本书，借期三周。请带好借书证，不要带食物和饮料。';

export const copyEdits: readonly string[] = [
  `Repeat this text, but change "nine" to "eight":\n\n${NOTICE}`,
  `Repeat this text exactly, and correct nothing:\n\n${NOTICE}`,
  `Copy this letter and replace Anna by Maria:\n\n${LETTER}`,
  `Copy this letter exactly:\n\n${LETTER}`,
  `Rename the variable sum to result in this code and print the whole code:\n\n${CODE}`,
  `Add a comment above the loop and print the whole code:\n\n${CODE}`,
  `Write this list with stars instead of dashes:\n\n${LIST}`,
  `Write this list as one sentence:\n\n${LIST}`,
  `请重复下面的文字，把“九点”改成“八点”：\n\n${NOTICE_ZH}`,
  `请一字不差地重复下面的文字：\n\n${NOTICE_ZH}`,
];

export const chatQuestions: readonly string[] = [
  'What is the capital of France?',
  'Why is the sky blue?',
  'Give me three tips for learning a language.',
  'How do I make a cup of tea?',
  'What are the benefits of exercise?',
  'Tell me a short story about a cat.',
  'What does a computer do?',
  'Describe a day at the sea.',
  '你好，请介绍一下你自己。',
  '什么是人工智能？',
  '请推荐三种健康的早餐。',
  '请写一首关于春天的短诗。',
  '如何保持健康的生活方式？',
  '请介绍一下长城。',
];
