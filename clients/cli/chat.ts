// `npm run chat`: a conversation in the terminal over one session. Ctrl-C stops the answer, not the program. With a
// piped input it answers once and ends, with exit code 1 when there was no answer.
import { connect, ConnectionLostError } from '../index.ts';
import type { Client, Finished, ModelInfo, ResponseStream, SendOptions, Session } from '../index.ts';
import { help, readOptions } from './options.ts';
import type { ChatOptions } from './options.ts';
import { Terminal } from './terminal.ts';

/** Two Ctrl-C at the prompt within this time leave. */
const LEAVE_WITHIN_MS = 2000;

async function main(): Promise<number> {
  let options: ChatOptions;
  try {
    options = readOptions(process.argv.slice(2), process.env);
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n`);
    return 2;
  }
  if (options.wantsHelp) {
    process.stdout.write(help);
    return 0;
  }
  const client = connect(options.url, {
    name: 'tokenwire-chat',
    ...(options.key === null ? {} : { apiKey: options.key }),
  });
  try {
    await client.ready();
  } catch (error) {
    client.close();
    process.stderr.write(
      error instanceof ConnectionLostError
        ? `no server at ${options.url}; start one with: npm start\n`
        : `${(error as Error).message}\n`,
    );
    return 1;
  }
  try {
    return await talk(client, options);
  } finally {
    client.close();
  }
}

async function talk(client: Client, options: ChatOptions): Promise<number> {
  const session = client.session({
    ...(options.model === null ? {} : { model: options.model }),
    ...(options.system === null ? {} : { system: options.system }),
    onOpened: (_, origin, numDropped) => {
      isLoading = false;
      if (origin === 'recreated') terminal.remark('the server had forgotten this chat: it goes on from the copy here');
      if (numDropped > 0) terminal.remark(`it was too long for that: its oldest ${numDropped} messages are gone`);
    },
    onLoading: (message) => {
      if (!isLoading) terminal.remark(`waiting: ${message}`);
      isLoading = true;
    },
  });
  let isLoading = false;
  let running: ResponseStream | null = null;
  let interruptedAtMs = -Infinity;
  const terminal = new Terminal(() => {
    if (running !== null) {
      void running.cancel();
      return;
    }
    if (!terminal.isInteractive || performance.now() - interruptedAtMs < LEAVE_WITHIN_MS) {
      terminal.close();
      return;
    }
    const hadText = terminal.hasTypedText;
    interruptedAtMs = hadText ? -Infinity : performance.now();
    if (!hadText) terminal.remark('\npress Ctrl-C again or Ctrl-D to leave');
    terminal.clearLine();
  });
  noticeReconnects(client, terminal);
  try {
    // An unknown model or a refused session ends here, before anyone has typed.
    const { model: name } = await session.ready();
    const model = client.models.find(({ id }) => id === name) ?? client.models[0];
    const answer = async (question: string): Promise<boolean> => {
      running = session.send(question, sampling(options, model));
      try {
        return await show(running, terminal);
      } finally {
        running = null;
      }
    };
    if (!terminal.isInteractive) return await answerOnce(terminal, answer);
    terminal.remark(`${name} at ${options.url}. Ctrl-C stops an answer, Ctrl-D leaves.`);
    for (;;) {
      const line = await terminal.ask();
      if (line === null) break;
      if (line.trim() !== '') await answer(line);
    }
    terminal.write('\n');
    return 0;
  } catch (error) {
    terminal.remark((error as Error).message);
    return 1;
  } finally {
    terminal.close();
    await leave(session);
  }
}

async function answerOnce(terminal: Terminal, answer: (question: string) => Promise<boolean>): Promise<number> {
  const question = await terminal.readAll();
  if (question === '') {
    terminal.remark('nothing to ask: the input was empty');
    return 1;
  }
  return (await answer(question)) ? 0 : 1;
}

/** Writes the answer as it comes. Returns whether it came to an end of its own. */
async function show(response: ResponseStream, terminal: Terminal): Promise<boolean> {
  let endsLine = true;
  try {
    for await (const text of response) {
      terminal.write(text);
      endsLine = text.endsWith('\n');
    }
    if (!endsLine) terminal.write('\n');
    const finished = await response.finished;
    terminal.remark(usageLine(finished, response.firstTextMs));
    return finished.reason !== 'cancelled';
  } catch (error) {
    if (!endsLine) terminal.write('\n');
    terminal.remark(
      error instanceof ConnectionLostError ? 'the server no longer has the rest: ask again' : (error as Error).message,
    );
    return false;
  }
}

function usageLine({ reason, cancelledBy, usage, timings }: Finished, firstTextMs: number | null): string {
  const parts = [`${usage.promptTokens} + ${usage.completionTokens} tokens`];
  const decodeMs = timings.totalMs - timings.ttftMs;
  if (usage.completionTokens > 1 && decodeMs > 0) {
    parts.push(`${(((usage.completionTokens - 1) * 1000) / decodeMs).toFixed(0)} tok/s`);
  }
  if (firstTextMs !== null) parts.push(`TTFT ${firstTextMs.toFixed(0)} ms`);
  if (reason === 'cancelled') parts.push(cancelledBy === 'caller' ? 'stopped' : 'stopped by the server');
  if (reason === 'length') parts.push('cut at the token limit');
  if (usage.droppedMessages > 0) parts.push(`${usage.droppedMessages} old messages no longer fit`);
  return parts.join(' · ');
}

function sampling(options: ChatOptions, model: ModelInfo | undefined): SendOptions {
  const chosen: SendOptions = { ...model?.preset };
  if (options.temperature !== null) chosen.temperature = options.temperature;
  if (options.maxTokens !== null) chosen.maxTokens = options.maxTokens;
  return chosen;
}

function noticeReconnects(client: Client, terminal: Terminal): void {
  let isLost = false;
  client.onState((state) => {
    if (state.state === 'waiting' && !isLost) {
      isLost = true;
      terminal.remark('connection lost, trying again…');
    } else if (state.state === 'open' && isLost) {
      isLost = false;
      terminal.remark('connected again');
    } else if (state.state === 'closed' && state.error !== null) {
      terminal.remark(state.error.message);
    }
  });
}

/** The server need not keep what nobody can come back to; but leaving never waits for a server that is gone. */
async function leave(session: Session): Promise<void> {
  const tooLong = new Promise<void>((resolve) => {
    setTimeout(resolve, 500).unref();
  });
  await Promise.race([session.close().catch(() => {}), tooLong]);
}

// Exit by code and not by process.exit: output to a pipe may still be on its way.
process.exitCode = await main();
