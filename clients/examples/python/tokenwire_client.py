"""A small Tokenwire client: one connection, many answers, none lost or doubled when the connection breaks."""
import asyncio, contextlib, random, secrets, msgpack, websockets  # noqa: E401

HELLO, OPEN_SESSION, HISTORY, CREATE, CANCEL, ACK, RESUME = 1, 4, 6, 10, 11, 12, 14  # to the server; from it:
CREATED, DELTAS, TOOL_BEGIN, TOOL_DELTA, TOOL_END, DONE, ERROR, GOAWAY = *range(40, 46), 47, 49

class TokenwireError(Exception):
    """An error of the server; args[0] is its WireError map: code, message, retryable …"""

class Restarted(Exception):
    """The server lost its record of this answer: forget every part of it, then iterate again, from the start."""

class Answer:
    """One response: iterate for its parts, text (str) and finished tool calls (maps); then see `reason`, `usage`."""
    def __init__(self, client):
        self.client, self.cancelling, self.request_id = client, False, secrets.token_hex(8)  # random, never counted
        self.ws = self.handle = self.response = self.epoch = self.reason = self.usage = None  # a handle is one ws's
        self.seq = self.acked = 0  # the last event received (Resume goes on behind it), the last acknowledged
        self.parts, self.ended = asyncio.Queue(), asyncio.Event()

    async def __aiter__(self):
        while not (self.ended.is_set() and self.parts.empty()):
            seq, part = await self.parts.get()
            # Acknowledged is only what left the queue: so a slow reader slows the server down, which stops 256 events
            # above the last ack. Done counts too: a connection pauses at 1 MiB that was sent and never acknowledged.
            is_due = seq - self.acked >= 64 or self.ended.is_set() and self.parts.empty()
            if is_due and self.ws is self.client.ws:
                self.acked = seq
                await self.client.send(ACK, self.handle, seq)
            if isinstance(part, Exception):
                raise part
            if part:
                yield part

    async def cancel(self):
        """End the answer now; returns when it has ended. What it said until then can still be read."""
        self.cancelling = True  # without a handle just now, set_result() comes here again
        if self.ws is self.client.ws:
            await self.client.send(CANCEL, self.handle)
        await self.ended.wait()

    def put(self, seq, part=None, ended=False):
        self.seq = seq
        self.parts.put_nowait((seq, part))
        if ended:
            self.ended.set()
            self.client.answers.discard(self)

    def event(self, op, seq, value, *more):
        if op == TOOL_BEGIN:
            self.call = {"id": more[0], "name": more[1], "arguments": ""}
        elif op == TOOL_DELTA:
            self.call["arguments"] += more[0]
        elif op == DONE:
            self.reason, self.usage, _, error = value, *more[:3]
            return self.put(seq, error and TokenwireError(error), ended=True)
        self.put(seq, self.call if op == TOOL_END else None)

    def set_exception(self, error):  # an Answer waits for Created or Resumed as if it were a Future
        self.put(self.seq, error, ended=True)

    def set_result(self, fields):
        recovered, self.handle, self.response, self.epoch, *_ = fields
        if not recovered:  # another log, or no such response: what was received counts no more
            while not self.parts.empty():
                self.parts.get_nowait()
            self.put(0, Restarted() if self.handle else LookupError(self.response), ended=not self.handle)
        self.acked, self.ws, self.client.handles[self.handle] = self.seq, self.client.ws, self
        if self.cancelling:
            asyncio.ensure_future(self.cancel())

class Client:
    """A connection that comes back by itself, known to the server by its `instance`. Everything runs on lane 0."""
    def __init__(self, url, token=None):
        self.hello = {"client": "tokenwire-python/1.0", "instance": secrets.token_hex(16), "token": token}
        self.url, self.pause, self.goaway_ms = url.rstrip("/") + "/v1/stream", 1, None
        self.answers, self.waiting = set(), {}  # those not ended; requestId: (who waits, op, fields) of what is asked

    async def connect(self):
        """Connect, greet, go on with all that was begun; read() repeats it for a lost connection."""
        self.ws = await websockets.connect(self.url, subprotocols=["tokenwire.v1"], compression=None, max_size=None)
        await self.send(HELLO, 1, self.hello)
        op, *fields = msgpack.unpackb(await self.ws.recv())
        if op == ERROR:
            await self.ws.wait_closed()
            raise TokenwireError(fields[2])
        self.pause, self.goaway_ms, self.handles, self.reader = 1, None, {}, asyncio.create_task(self.read())
        for a in [a for a in self.answers if a.response]:
            self.waiting[a.request_id] = a, RESUME, [{"response": a.response, "epoch": a.epoch, "lastSeq": a.seq}]
        for request_id, (_, op, fields) in list(self.waiting.items()):
            await self.send(op, request_id, *fields)

    async def close(self):
        """Say that we are done (1000), upon which the server cancels what still runs here."""
        await self.ws.close(1000)
        self.reader.cancel()

    async def open_session(self, **options):
        """A new session, or an old one with session=ID; returns its SessionInfo."""
        return (await self.request(OPEN_SESSION, options))[0]

    async def history(self, session, start=0):
        """The messages of the ended turns of a session, which come in pages."""
        _, messages, following, *_ = await self.request(HISTORY, session, start)
        return messages + (await self.history(session, following) if following else [])

    async def create(self, messages, **options):
        """Ask, with the user's text or a list of ChatMessages. A refusal is raised by iterating over the Answer."""
        messages = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        self.answers.add(answer := Answer(self))
        return await self.ask(answer, answer.request_id, CREATE, {"messages": messages, **options})

    async def request(self, op, *fields):
        return await (await self.ask(asyncio.Future(), secrets.token_hex(8), op, *fields))

    async def ask(self, waiter, request_id, op, *fields):  # repeating is safe: what has a requestId is done only once
        self.waiting[request_id] = waiter, op, fields
        await self.send(op, request_id, *fields)
        return waiter

    async def send(self, op, *fields):
        with contextlib.suppress(websockets.ConnectionClosed):  # read() sees it too, and does what is to be done
            await self.ws.send(msgpack.packb([op, 0, *fields]))

    def take(self, op, lane, *fields):
        if op == DELTAS:
            for handle, seq, text, *_ in fields[0]:
                self.handles[handle].put(seq, text)
        elif TOOL_BEGIN <= op <= DONE:
            (self.handles.pop if op == DONE else self.handles.get)(fields[0]).event(op, *fields[1:])
        elif op == GOAWAY:
            self.goaway_ms = fields[1]
        elif fields and isinstance(fields[0], str) and fields[0] in self.waiting:
            waiter, *_ = self.waiting.pop(fields[0])
            if op == ERROR:
                return waiter.set_exception(TokenwireError(fields[1]))
            waiter.set_result([True, *fields[1:]] if op == CREATED else fields[1:])

    async def read(self):
        with contextlib.suppress(websockets.ConnectionClosed):
            async for data in self.ws:
                self.take(*msgpack.unpackb(data, unicode_errors="replace"))
        while self.ws.close_code not in (1000, 1003, 1007, 1008):  # we are done, or would only be refused again
            await asyncio.sleep(random.uniform(0, self.pause) if self.goaway_ms is None else self.goaway_ms / 1000)
            self.pause, self.goaway_ms = min(2 * self.pause, 30), None
            with contextlib.suppress(OSError, websockets.WebSocketException, TokenwireError):
                return await self.connect()
        for waiter in {*self.answers, *(waiter for waiter, *_ in self.waiting.values())}:
            waiter.set_exception(ConnectionError(f"connection lost ({self.ws.close_code} {self.ws.close_reason})"))
