"""A port that passes bytes on and can be reset. Knows nothing of what passes."""

import asyncio
import socket
import struct
import threading
from contextlib import suppress

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of a socket whose end is a reset, and no farewell."""


class Proxy:
    """Ports in front of one address, in a thread of its own.

    Args:
        names: of the ports.
        port: on this machine, to which all of them lead.
    """

    def __init__(self, names: list[str], port: int) -> None:
        self.ports: dict[str, int] = {}
        """By name, where to dial."""
        self._port = port
        self._open: dict[str, set[asyncio.StreamWriter]] = {name: set() for name in names}
        self._loop = asyncio.new_event_loop()
        for name in names:
            server = self._loop.run_until_complete(self._listen(name))
            self.ports[name] = server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def reset(self, name: str) -> int:
        """Reset every connection of a port, at both ends; how many sockets those were."""
        future = asyncio.run_coroutine_threadsafe(self._reset(name), self._loop)
        return future.result(10.0)

    def close(self) -> None:
        """Reset everything, and stop."""
        for name in self._open:
            self.reset(name)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _listen(self, name: str) -> asyncio.Server:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                there = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                writer.transport.abort()
                return
            both = {writer, there[1]}
            self._open[name] |= both
            await asyncio.gather(_pass(reader, there[1]), _pass(there[0], writer))
            self._open[name] -= both

        return await asyncio.start_server(accept, "127.0.0.1", 0)

    async def _reset(self, name: str) -> int:
        writers = list(self._open[name])
        for writer in writers:
            plug: socket.socket = writer.get_extra_info("socket")
            with suppress(OSError):
                plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()
        return len(writers)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    with suppress(OSError, RuntimeError):
        writer.close()
