"""The handshake of a stream: receive Hello, check version, certificate and token, or reject."""

import asyncio
import logging
from importlib.metadata import version

from fedkd.errors import RemoteProtocolError
from fedkd.process.logs import log_event
from fedkd.protocol import Card
from fedkd.server.hub.admission import Admission
from fedkd.server.hub.call_limits import CallLimit, certificate_of, peer_of
from fedkd.server.hub.certificate_expiry import expiry_of, expiry_text, has_expired
from fedkd.wire import VERSION, Hello, Session, decode_from_institution
from fedkd.wire.grpc_channels import grpc

HELLO_SECONDS = 5.0
"""Timeout of the Hello."""
MAX_HELLO_BYTES = 4 << 20
"""Most bytes before a token was seen: more than any card within its bounds."""
MAX_HANDSHAKES = 4
"""Streams of one certificate that have not said Hello yet."""
MAX_HANDSHAKES_OF_HOST = 64
"""The same of one host without certificates: this machine, with many institutions."""

log = logging.getLogger(__name__)


class Handshakes:
    """Streams that have not said Hello, by certificate or host: nobody takes all places."""

    def __init__(self) -> None:
        self._limit = CallLimit(MAX_HANDSHAKES, MAX_HANDSHAKES_OF_HOST)

    def __len__(self) -> int:
        """Handshakes under way."""
        return len(self._limit)

    async def perform(
        self, stream: grpc.aio.ServicerContext, protocol: Session, admission: Admission
    ) -> Card | None:
        """`perform_handshake`, unless its peer has too many under way."""
        peer = peer_of(stream)
        if most := self._limit.exceeded(peer):
            await stream.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {most} streams without a Hello"
            )
        with self._limit.counted(peer):
            return await perform_handshake(stream, protocol, admission)


async def perform_handshake(
    stream: grpc.aio.ServicerContext, protocol: Session, admission: Admission
) -> Card | None:
    """Receives the Hello of an institution and returns its card, or aborts with a gRPC status."""
    try:
        data = await asyncio.wait_for(stream.read(), HELLO_SECONDS)
    except TimeoutError:
        await stream.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no Hello came")
    if data is grpc.aio.EOF:
        return None
    if len(data) > MAX_HELLO_BYTES:
        await stream.abort(grpc.StatusCode.INVALID_ARGUMENT, "a Hello of too many bytes")
    hello = decode_from_institution(data)
    try:
        protocol.receive(hello)
    except RemoteProtocolError as error:
        await stream.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    if not isinstance(hello, Hello):
        return None
    if rejection := await _rejection(hello, stream, admission):
        # The operator may be waiting for an institution that came with an old token.
        log_event(log, "refused", logging.WARNING, name=hello.card.name, reason=rejection[1])
        await stream.abort(*rejection)
    return hello.card


def version_skew(theirs: str, ours: str | None = None) -> str | None:
    """Why an institution of another version of fedkd is not admitted; None where it may be.

    Before 1.0 the second number counts, from then on the first. A card that tells none passes: the
    version of the wire decides.

    Args:
        theirs: on the institution's card.
        ours: None: the installed one.
    """
    ours = version("fedkd") if ours is None else ours
    if not theirs or _compatible(theirs) == _compatible(ours):
        return None
    return (
        f"fedkd {theirs} at the institution, {ours} at the coordinator; "
        f"install fedkd {'.'.join(_compatible(ours))}.* at both"
    )


def _compatible(release: str) -> list[str]:
    """The part of a version in which two have to be the same."""
    numbers = release.split(".")
    return numbers[: 2 if numbers[0] == "0" else 1]


async def _rejection(
    hello: Hello, stream: grpc.aio.ServicerContext, admission: Admission
) -> tuple[grpc.StatusCode, str] | None:
    """Why the sender of ``hello`` is not admitted; None if it is.

    The token is checked last, since it may be valid only once; and nothing is revealed about a
    name before its token was valid.
    """
    code, name = grpc.StatusCode, hello.card.name
    if hello.version != VERSION:
        return code.FAILED_PRECONDITION, (
            f"version {hello.version} of the wire, expected {VERSION}; "
            "install the release of fedkd that the coordinator runs"
        )
    if skew := version_skew(hello.card.fedkd_version):
        return code.FAILED_PRECONDITION, skew
    certified = stream.peer_identities()
    if certified is not None and name.encode() not in certified:
        return code.PERMISSION_DENIED, f"the certificate does not speak for {name!r}"
    if (expiry := expiry_of(stream)) and has_expired(expiry):  # the connection is older
        return code.UNAUTHENTICATED, expiry_text(name, expiry)
    certificate = certificate_of(stream)
    try:  # in another thread: it may have to wait for a disk
        refused = await asyncio.to_thread(admission.admit, hello.token, name, certificate)
    except Exception:  # the details must not reach the peer
        log.exception("admission check failed")
        return code.UNAVAILABLE, "the coordinator cannot check tokens now; try again later"
    if refused:
        return code.UNAUTHENTICATED, refused
    return None
