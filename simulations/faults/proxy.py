"""A TCP proxy in front of the coordinator: connections can be reset, and led elsewhere."""

import asyncio
import socket
import struct
import threading
from contextlib import suppress

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of a socket that is closed by a reset (RST)."""


class Proxy:
    """Proxy ports that forward to one address, in a thread of their own.

    Args:
        names: one for each port.
        port: on this machine, to which all of them forward at first.
    """

    def __init__(self, names: list[str], port: int) -> None:
        self.ports: dict[str, int] = {}
        """Port to dial, by name."""
        self._targets = dict.fromkeys(names, port)
        self._open: dict[str, set[asyncio.StreamWriter]] = {name: set() for name in names}
        self._loop = asyncio.new_event_loop()
        for name in names:
            server = self._loop.run_until_complete(self._listen(name))
            self.ports[name] = server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def route(self, name: str, port: int) -> None:
        """Forward new connections of this name to another port."""
        self._targets[name] = port

    def reset(self, name: str) -> int:
        """Reset all connections of a port, at both ends; returns the number of sockets."""
        future = asyncio.run_coroutine_threadsafe(self._reset(name), self._loop)
        return future.result(10.0)

    def close(self) -> None:
        """Reset all connections, and stop."""
        for name in self._open:
            self.reset(name)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _listen(self, name: str) -> asyncio.Server:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                upstream = await asyncio.open_connection("127.0.0.1", self._targets[name])
            except OSError:
                writer.transport.abort()
                return
            pair = {writer, upstream[1]}
            self._open[name] |= pair
            await asyncio.gather(_forward(reader, upstream[1]), _forward(upstream[0], writer))
            self._open[name] -= pair

        return await asyncio.start_server(accept, "127.0.0.1", 0)

    async def _reset(self, name: str) -> int:
        writers = list(self._open[name])
        for writer in writers:
            connection: socket.socket = writer.get_extra_info("socket")
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()
        return len(writers)


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    with suppress(OSError, RuntimeError):
        writer.close()
