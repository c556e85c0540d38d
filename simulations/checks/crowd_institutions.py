"""Many institutions in one process: each a stream of its own, with the real messages of the wire.

`fedkd.client.sessions.agent` needs a thread or more for each institution; a thousand of those would
measure this machine's scheduler. So their streams run on one event loop, with the session state
machine of the wire. What they answer is a constant: no teacher is measured.
"""

import asyncio
from collections.abc import Sequence

import torch

from fedkd.protocol import Card, Reply, Signal
from fedkd.wire import (
    VERSION,
    Answer,
    Close,
    Hello,
    Query,
    Role,
    Session,
    decode_from_coordinator,
    encode,
)
from fedkd.wire.grpc_channels import METHOD, SERVICE, grpc

MOST_JOINING = 12
"""Handshakes of one process at a time: the hub allows 64 of one host."""
CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)
"""A connection for each institution, as from machines of their own."""


def run_institutions(
    address: str, token: str, names: Sequence[str], rows: int, shape: tuple[int, int, int], k: int
) -> None:
    """Answer for all ``names`` until the hub closes the run.

    Args:
        address: host:port of the hub.
        token: of the run.
        names: of the institutions.
        rows: images in each question.
        shape: (C, H, W) of an image.
        k: classes.
    """
    torch.set_num_threads(1)
    asyncio.run(_serve_all(address, token, names, rows, shape, k))


async def _serve_all(
    address: str, token: str, names: Sequence[str], rows: int, shape: tuple[int, int, int], k: int
) -> None:
    joining = asyncio.Semaphore(MOST_JOINING)
    rng = torch.Generator().manual_seed(0)
    institutions = (
        _Institution(
            Card(name, k, shape, frozenset({Signal.LOGITS})),
            Reply({Signal.LOGITS: torch.randn(rows, k, generator=rng).half()}),
        ).serve(address, token, joining)
        for name in names
    )
    await asyncio.gather(*institutions)


class _Institution:
    """One institution on one stream.

    Args:
        card: its card.
        reply: its answer to every question.
    """

    def __init__(self, card: Card, reply: Reply) -> None:
        self._card, self._reply = card, reply
        self._session = Session(Role.INSTITUTION)

    async def serve(self, address: str, token: str, joining: asyncio.Semaphore) -> None:
        """Join, answer every question, and return when the hub closes the run."""
        async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            async with joining:
                stream = channel.stream_stream(f"/{SERVICE}/{METHOD}")()
                hello = Hello(VERSION, token, self._card)
                self._session.send(hello)
                await stream.write(encode(hello))
                await self._receive(stream)  # Welcome
            while await self._receive(stream):
                pass
            await stream.done_writing()

    async def _receive(self, stream: grpc.aio.StreamStreamCall) -> bool:
        """Receive one message and answer it; False once the session is closed."""
        data = await stream.read()
        if data is grpc.aio.EOF:
            raise RuntimeError(f"{self._card.name} was refused: {await stream.details()}")
        message = decode_from_coordinator(data)
        self._session.receive(message)
        if isinstance(message, Query):
            answer = Answer(message.id, self._reply)
            encoded = encode(answer, self._session.packs)
            self._session.send(answer)
            await stream.write(encoded)
        return not isinstance(message, Close)
