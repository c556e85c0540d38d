"""The first word of a stream: who is it, and may it come in? Knows no seat and no question."""

import asyncio
import logging
import ssl

from fedkd.core.logs import say
from fedkd.errors import RemoteProtocolError
from fedkd.protocol.signals import Card
from fedkd.server.hub.admission import Admission
from fedkd.wire.channel import grpc
from fedkd.wire.codec import decode_from_institution
from fedkd.wire.messages import VERSION, Hello
from fedkd.wire.session import Session

HELLO_SECONDS = 10.0
"""For whoever connects to say who it is."""

log = logging.getLogger(__name__)


async def greet(
    stream: grpc.aio.ServicerContext, session: Session, admission: Admission
) -> Card | None:
    """Hears a Hello; whoever may not come in is told why by a status, as gRPC has it."""
    try:
        data = await asyncio.wait_for(stream.read(), HELLO_SECONDS)
    except TimeoutError:
        await stream.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no Hello came")
    if data is grpc.aio.EOF:
        return None
    hello = decode_from_institution(data)
    try:
        session.receive(hello)
    except RemoteProtocolError as error:
        await stream.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    if not isinstance(hello, Hello):
        return None
    if objection := await _objection(hello, stream, admission):
        # Whoever waits for an institution may be waiting for one that came with an old token.
        say(log, "refused", logging.WARNING, name=hello.card.name, reason=objection[1])
        await stream.abort(*objection)
    return hello.card


async def _objection(
    hello: Hello, stream: grpc.aio.ServicerContext, admission: Admission
) -> tuple[grpc.StatusCode, str] | None:
    """Why whoever says ``hello`` may not come in; None where it may.

    A token is looked at only when everything else that the stranger says of itself is right,
    for it may be good only once; and nothing is told of a name before its token was good.
    """
    code, name = grpc.StatusCode, hello.card.name
    if hello.version != VERSION:
        return code.FAILED_PRECONDITION, (
            f"version {hello.version} of the wire, expected {VERSION}; "
            "install the release of fedkd that the coordinator runs"
        )
    certified = stream.peer_identities()
    if certified is not None and name.encode() not in certified:
        return code.PERMISSION_DENIED, f"the certificate does not speak for {name!r}"
    certificate = _certificate(stream)
    try:  # in another thread: it may have to wait for a disk
        refused = await asyncio.to_thread(admission.admit, hello.token, name, certificate)
    except Exception:  # whatever is wrong here is no stranger's business
        log.exception("cannot tell who may come in")
        return code.UNAVAILABLE, "the coordinator cannot check tokens now; try again later"
    if refused:
        return code.UNAUTHENTICATED, refused
    return None


def _certificate(stream: grpc.aio.ServicerContext) -> bytes | None:
    """The institution's, as DER; None where the connection has none."""
    pem = stream.auth_context().get("x509_pem_cert")
    return ssl.PEM_cert_to_DER_cert(pem[0].decode()) if pem else None
