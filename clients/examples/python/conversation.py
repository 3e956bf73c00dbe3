"""A scripted conversation with a server that runs the fake model (MODEL=fake:stepMs=3), to test client and server:

    python3 conversation.py ws://127.0.0.1:8080

Prints one JSON line per step and exits 0 when everything came as expected, 1 otherwise.
"""
import asyncio
import json
import sys

from tokenwire_client import Client

ADD = {"name": "add", "description": "Adds numbers",
       "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
failed = []


def step(name, expected, got):
    """Report one step: what came, and whether it is what had to come."""
    if expected != got:
        failed.append(name)
    line = {"step": name, "ok": expected == got, "got": got}
    print(json.dumps(line if line["ok"] else {**line, "expected": expected}))


async def read(answer):
    """The whole answer: text, calls, reason."""
    text, calls = "", []
    async for part in answer:
        if isinstance(part, str):
            text += part
        else:
            calls.append(part)
    return text, calls, answer.reason


async def converse(url):
    client = Client(url)
    await client.connect()

    session = (await client.open_session(system="You are brief."))["session"]
    first, second = "!!say My name is Ada. !!", "!!say You said: My name is Ada. !!"
    for name, prompt, text in (("turn 1", first, "My name is Ada. "), ("turn 2", second, "You said: My name is Ada. ")):
        answer = await client.create(prompt, session=session)
        step(name, [text, [], "stop"], [*await read(answer)])
    # The second prompt holds the first turn, so the server need not read that part again.
    step("turn 2 continues turn 1", True, answer.usage["cachedTokens"] > 0)

    step("history", [["system", "You are brief."], ["user", first], ["assistant", "My name is Ada. "],
                     ["user", second], ["assistant", "You said: My name is Ada. "]],
         [[m["role"], m["content"]] for m in await client.history(session)])

    prompt = '!!say <tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>!!'
    answer = await client.create(prompt, session=session, tools=[ADD])
    text, calls, reason = await read(answer)
    step("tool call", ["add", {"a": 1}, "tool_calls"], [calls[0]["name"], json.loads(calls[0]["arguments"]), reason]
         if calls else [text, reason])
    if calls:
        result = [{"role": "tool", "toolCallId": calls[0]["id"], "content": "1"}]
        answer = await client.create([*result, {"role": "user", "content": "!!say The sum is 1. !!"}], session=session)
        step("tool result", ["The sum is 1. ", [], "stop"], [*await read(answer)])
        step("history of the call", [calls, calls[0]["id"]],
             [m.get("toolCalls", m.get("toolCallId")) for m in (await client.history(session))[6:8]])

    answer = await client.create("Go on for ever.", sampling={"ignoreEos": True})
    pieces = 0
    async for part in answer:
        pieces += 1
        if pieces == 20:
            await answer.cancel()
    step("cancel", ["cancelled", True], [answer.reason, pieces >= 20])

    # The same long answer twice, once undisturbed and once with the connection cut in the middle of it.
    options = {"sampling": {"ignoreEos": True, "maxTokens": 400, "seed": 1, "temperature": 0}}
    whole, _, reason = await read(await client.create("Count.", **options))
    step("long answer", ["length", True], [reason, len(whole) > 0])
    answer, text, pieces = await client.create("Count.", **options), "", 0
    async for part in answer:
        text, pieces = text + part, pieces + 1
        if pieces == 50:
            client.ws.transport.abort()  # no close frame: as when a network goes away
    step("resume", ["length", True, 400], [answer.reason, text == whole, answer.usage["completionTokens"]])
    step("after the resume", ["Still here. ", [], "stop"],
         [*await read(await client.create("!!say Still here. !!", session=session))])
    await client.close()


if __name__ == "__main__":
    asyncio.run(asyncio.wait_for(converse(sys.argv[1]), 60))
    sys.exit(1 if failed else 0)
