"""A TCP proxy in front of one engine that does to it what networks and dying processes do.

Each request may meet a fault of its own; from time to time the whole engine is dead or frozen for a while.
"""

import asyncio
import os
import random
import re
import socket
import struct

# Of a request, and of an answer that has begun. What is not in here is left alone.
BEFORE = {"reset": 0.02, "close": 0.01, "garbage": 0.01}
AMID = {"cut": 0.02, "noise": 0.01, "slow": 0.06}
# Seconds between two things that happen to the engine as a whole, and how long they last.
PAUSE_S = (8, 20)
DEAD_S = (2, 8)
# Longer than three scrapes that are missed.
FROZEN_S = (3, 14)
# Of what the mock engine writes, four letters in the room of two that UTF-8 makes two bytes each.
TOKEN = re.compile(rb'"(text|content)":"[A-Za-z]{4}"')


def reset(writer):
    """Ends a connection as a process that dies does."""
    linger = struct.pack("ii", 1, 0)
    with_socket = writer.get_extra_info("socket")
    if with_socket is not None:
        try:
            with_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        except OSError:
            pass
    writer.transport.abort()


class FaultyEngine:
    """Listens in the place of an engine."""

    def __init__(self, engine, seed):
        self.engine = engine
        self.random = random.Random(seed)
        self.counts = dict.fromkeys([*BEFORE, *AMID, "dead", "frozen"], 0)
        self.writers = set()
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.is_calm = False
        self.server = None
        self.port = 0

    async def listen(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def misfortunes(self):
        """Kills and freezes the engine, again and again."""
        while not self.is_calm:
            await asyncio.sleep(self.random.uniform(*PAUSE_S))
            if self.is_calm:
                return
            if self.random.random() < 0.5:
                self.counts["dead"] += 1
                self.server.close()
                for writer in list(self.writers):
                    reset(writer)
                await asyncio.sleep(self.random.uniform(*DEAD_S))
                await self.listen()
            else:
                self.counts["frozen"] += 1
                self.thawed.clear()
                await asyncio.sleep(self.random.uniform(*FROZEN_S))
                self.thawed.set()

    def draw(self, faults):
        """One of the faults, or none."""
        draw = self.random.random()
        for name, share in faults.items():
            draw -= share
            if draw < 0 and not self.is_calm:
                self.counts[name] += 1
                return name
        return None

    async def serve(self, reader, writer):
        host, port = self.engine.rsplit(":", 1)
        try:
            engine_reader, engine_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            return reset(writer)
        both = {writer, engine_writer}
        self.writers |= both
        # The fault that the request under way is to meet in its answer.
        fate = {"amid": None, "left": 0}
        ways = [
            asyncio.create_task(self.requests(reader, engine_writer, writer, fate)),
            asyncio.create_task(self.answers(engine_reader, writer, fate)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        results = await asyncio.gather(*ways, return_exceptions=True)
        self.writers -= both
        for one in both:
            one.close()
        for result in results:
            # Connections may end as they like; a mistake in here may not pass for a fault.
            if isinstance(result, Exception) and not isinstance(result, OSError):
                raise result

    async def requests(self, reader, engine_writer, writer, fate):
        while data := await reader.read(65536):
            await self.thawed.wait()
            if data.startswith(b"POST "):
                before = self.draw(BEFORE)
                if before == "reset":
                    return reset(writer)
                if before == "close":
                    return
                if before == "garbage":
                    writer.write(os.urandom(200))
                    return await writer.drain()
                fate["amid"], fate["left"] = self.draw(AMID), self.random.randrange(20_000)
            engine_writer.write(data)
            await engine_writer.drain()

    async def answers(self, engine_reader, writer, fate):
        while data := await engine_reader.read(65536):
            await self.thawed.wait()
            data = TOKEN.sub(b'"\\1":"\xc3\xbc\xc3\xbc"', data)
            amid = fate["amid"]
            if amid == "slow":
                for at in range(0, len(data), 97):
                    # Ends anywhere, in the middle of a letter too.
                    for piece in (data[at : at + 3], data[at + 3 : at + 97]):
                        writer.write(piece)
                        await asyncio.sleep(0.001)
                continue
            fate["left"] -= len(data)
            if amid and fate["left"] < 0:
                writer.write(data[: len(data) // 2])
                if amid == "noise":
                    writer.write(os.urandom(500))
                    await writer.drain()
                    return
                return reset(writer)
            writer.write(data)
            await writer.drain()
