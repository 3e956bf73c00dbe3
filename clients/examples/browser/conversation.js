// node conversation.js ws://127.0.0.1:PORT [TOKEN]
// A scripted conversation with a server whose model is the fake one. One JSON line per step; exit code 0 when all matched.

import { TokenwireClient } from './tokenwire.js';

const [base, token] = process.argv.slice(2);
const client = new TokenwireClient(new URL('/v1/stream', base).href, { token });
const user = (content) => [{ role: 'user', content }];
const say = (text) => user(`!!say ${text}!!`);
let failed = false;

async function step(name, run) {
  try {
    const { ok, ...seen } = await run();
    failed ||= !ok;
    console.log(JSON.stringify({ step: name, ok, ...seen }));
  } catch (error) {
    failed = true;
    console.log(JSON.stringify({ step: name, ok: false, error: String(error.stack) }));
  }
}

async function pieces(answer, onPiece = () => {}) {
  const texts = [];
  for await (const text of answer) {
    texts.push(text);
    onPiece(texts);
  }
  return texts;
}

let session;
const numbers = Array.from({ length: 400 }, (_, i) => i).join(' ');
const call = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>';

setTimeout(() => {
  console.log(JSON.stringify({ step: 'timeout', ok: false }));
  process.exit(1);
}, 60000).unref();

await step('connect', async () => {
  const { server, models } = await client.connect();
  return { ok: models.length > 0, server, model: models[0].id, pingMs: await client.ping() };
});

await step('open session', async () => {
  const tools = [{ name: 'add', parameters: { type: 'object', properties: { a: { type: 'number' } } } }];
  const info = await client.openSession({ system: 'You are brief.', tools });
  session = info.session;
  return { ok: typeof session === 'string' && info.numTurns === 0, session };
});

for (const [name, text] of [
  ['first turn', 'Hello world '],
  ['second turn', '你好 👩‍🚀, again '],
]) {
  await step(name, async () => {
    const answer = client.create({ session, messages: say(text) });
    const got = (await pieces(answer)).join('');
    const ok = got === text && answer.text === text && answer.result.reason === 'stop' && answer.session === session;
    return { ok, text: got, usage: answer.result.usage };
  });
}

await step('tool call', async () => {
  const answer = await client.create({ session, messages: say(call) }).finish();
  const [tool] = answer.toolCalls;
  const ok = answer.result.reason === 'tool_calls' && tool.name === 'add' && JSON.parse(tool.arguments).a === 1;
  return { ok, text: answer.text, tool };
});

await step('cancel', async () => {
  // Without tools: the fake model finds the last !!say in the history, and it shall come as text, not as a call.
  const options = { session, messages: user('Go on for ever'), tools: [], sampling: { ignoreEos: true } };
  const answer = client.create(options);
  let cancelled;
  const texts = await pieces(answer, (all) => {
    if (all.length === 5) cancelled = answer.cancel();
  });
  await cancelled;
  return { ok: texts.length >= 5 && answer.result.reason === 'cancelled', pieces: texts.length, seq: answer.seq };
});

await step('history', async () => {
  const messages = await client.history(session);
  const roles = messages.map((message) => message.role).join(' ');
  const ok =
    roles === 'system user assistant user assistant user assistant user assistant' &&
    messages[2].content === 'Hello world ' &&
    messages[6].toolCalls[0].name === 'add';
  return { ok, roles, toolTurn: messages[6] };
});

await step('resume', async () => {
  const answer = client.create({ messages: say(numbers) });
  let restarts = 0;
  let droppedAt = 0;
  answer.onRestart = () => restarts++;
  const got = (
    await pieces(answer, (all) => {
      if (all.length !== 100) return;
      droppedAt = answer.seq;
      client.drop();
    })
  ).join('');
  const ok =
    got === numbers && answer.text === numbers && answer.handle === 1 && droppedAt > 0 && droppedAt < answer.seq;
  return {
    ok: ok && restarts === 0 && answer.result.reason === 'stop',
    droppedAt,
    seq: answer.seq,
    length: got.length,
  };
});

await step('create repeated', async () => {
  const answer = client.create({ messages: say('Once only') });
  client.drop(); // before Created can have come
  const text = (await pieces(answer)).join('');
  return { ok: text === 'Once only' && answer.result.reason === 'stop', text };
});

await step('refusal', async () => {
  const error = await client.create({ messages: user('x'), sampling: { temperature: 3 } }).created.catch((e) => e);
  return {
    ok: error.code === 'invalid_request' && error.param === 'sampling.temperature',
    code: error.code,
    param: error.param,
  };
});

await step('close session', async () => {
  await client.closeSession(session);
  const error = await client.history(session).catch((e) => e);
  client.close();
  return { ok: error.code === 'unknown_session', code: error.code };
});

process.exit(failed ? 1 : 0);
