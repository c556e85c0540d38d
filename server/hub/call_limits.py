"""Limits on concurrent calls of one kind: of one peer, so that none takes every place, and of all.

A peer is a client certificate, or a host where connections have none.
"""

import hashlib
import ssl
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fedkd.wire.grpc_channels import grpc


@dataclass(frozen=True)
class Peer:
    """Whose call it is."""

    key: str
    """Digest of the certificate, or the host."""
    certified: bool


def certificate_of(stream: grpc.aio.ServicerContext) -> bytes | None:
    """The client certificate of the connection, as DER; None if it has none."""
    pem = stream.auth_context().get("x509_pem_cert")
    return ssl.PEM_cert_to_DER_cert(pem[0].decode()) if pem else None


def peer_of(stream: grpc.aio.ServicerContext) -> Peer:
    """The peer of a call."""
    if certificate := certificate_of(stream):
        return Peer(hashlib.sha256(certificate).hexdigest(), certified=True)
    return Peer(stream.peer().rpartition(":")[0], certified=False)


class CallLimit:
    """Counts the calls of one kind that are under way. For one event loop.

    Args:
        of_certificate: most calls of one certificate.
        of_host: most calls of one host, where connections have no certificate.
        in_all: most calls of all peers together; None for no such limit.
    """

    def __init__(self, of_certificate: int, of_host: int, in_all: int | None = None) -> None:
        self._of_certificate, self._of_host, self._in_all = of_certificate, of_host, in_all
        self._open: Counter[str] = Counter()

    def __len__(self) -> int:
        """Calls under way."""
        return self._open.total()

    def exceeded(self, peer: Peer) -> int | None:
        """The limit that another call of ``peer`` would exceed; None if it may be made."""
        most = self._of_certificate if peer.certified else self._of_host
        if self._open[peer.key] >= most:
            return most
        if self._in_all is not None and len(self) >= self._in_all:
            return self._in_all
        return None

    @contextmanager
    def counted(self, peer: Peer) -> Iterator[None]:
        """Counts a call until the block ends."""
        self._open[peer.key] += 1
        try:
            yield
        finally:
            self._open[peer.key] -= 1
            if not self._open[peer.key]:
                del self._open[peer.key]
