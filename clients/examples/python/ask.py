"""Asks one question and prints the answer as it comes: python3 ask.py ws://127.0.0.1:8080 "What is a token?" """
import asyncio
import sys

from tokenwire_client import Client


async def main(url, question):
    client = Client(url)
    await client.connect()
    async for part in await client.create(question):
        print(part, end="", flush=True)
    print()
    await client.close()

asyncio.run(main(*sys.argv[1:3]))
