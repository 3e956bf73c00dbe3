// A demonstration: an answer is streamed through a proxy whose plug is pulled twice in the middle, goes on both times,
// and is then compared with the same answer over a connection that nobody cuts.
//   node clients/demos/cut-network.ts [--url http://127.0.0.1:8080] [--tokens 120] [--help]
import { setTimeout as sleep } from 'node:timers/promises';
import { connect } from '../index.ts';
import type { Client, ResponseStream } from '../index.ts';
import { readFlags } from './flags.ts';
import { TcpProxy } from './tcp-proxy.ts';

const help = `Streams an answer, cuts the network twice in the middle, and shows that nothing is lost.

  node clients/demos/cut-network.ts [--url URL] [--key KEY] [--tokens N] [--prompt TEXT]

  --url     a running server; default http://127.0.0.1:8080
  --key     its API key, if it wants one
  --tokens  length of the answer; default 120
  --prompt  what to ask; default a poem
`;

const flags = readFlags(process.argv.slice(2), {
  url: 'http://127.0.0.1:8080',
  key: '',
  tokens: '120',
  prompt: 'Write a long poem about the sea.',
});

/** The same answer each time: greedy, one seed, one length. */
function ask(client: Client): ResponseStream {
  return client.create({
    messages: [{ role: 'user', content: flags.values.prompt }],
    sampling: { temperature: 0, seed: 1, maxTokens: Number(flags.values.tokens), ignoreEos: true },
    offsets: true,
  });
}

async function main(): Promise<number> {
  if (flags.error !== null || flags.wantsHelp) {
    (flags.wantsHelp ? process.stdout : process.stderr).write(flags.wantsHelp ? help : `${flags.error}\n${help}`);
    return flags.wantsHelp ? 0 : 2;
  }
  const url = new URL(flags.values.url);
  const key = flags.values.key === '' ? {} : { apiKey: flags.values.key };
  const direct = connect(url.href, { name: 'cut-network', ...key });
  let whole;
  try {
    await direct.ready();
    whole = await ask(direct).finished;
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n`);
    return 1;
  } finally {
    direct.close();
  }
  const port = Number(url.port || (url.protocol === 'https:' ? 443 : 80));
  const proxy = await TcpProxy.start(port, url.hostname);
  const client = connect(`http://127.0.0.1:${proxy.port}`, { name: 'cut-network', retryFirstMs: 300, ...key });
  try {
    const response = ask(client);
    response.onState((state) => {
      if (state.state === 'waiting') process.stdout.write(`\n--- network cut behind event ${state.lastSeq} ---\n`);
      if (state.state === 'resumed') process.stdout.write(`--- resumed behind event ${state.lastSeq} ---\n`);
    });
    const cutAt = [1 / 3, 2 / 3].map((part) => Math.floor(whole.text.length * part));
    let text = '';
    let numDoubled = 0;
    for await (const event of response.events()) {
      if (event.type !== 'text') continue;
      // What an event says twice would begin before the end of what is here.
      numDoubled += Math.max(0, text.length - event.offset);
      text += event.text;
      process.stdout.write(event.text);
      if (text.length < (cutAt[0] ?? Infinity)) continue;
      cutAt.shift();
      proxy.cut(500);
    }
    const { usage } = await response.finished;
    const numLost = Math.max(0, whole.usage.completionTokens - usage.completionTokens);
    const isSame = text === whole.text;
    process.stdout.write(
      `\n\n${proxy.numCuts} cuts, ${usage.completionTokens} tokens; the text is ${isSame ? 'the same' : 'NOT the same'} as uncut\n` +
        `${isSame ? numLost : 'some'} tokens lost, ${isSame ? numDoubled : 'some'} doubled\n`,
    );
    return isSame && numLost === 0 && numDoubled === 0 ? 0 : 1;
  } finally {
    client.close();
    await sleep(50);
    await proxy.stop();
  }
}

process.exitCode = await main();
