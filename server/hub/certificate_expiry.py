"""A session may not outlive the client certificate that it was opened with.

TLS checks the dates of a certificate when a connection begins, and gRPC never again; a session
lasts for the hours or days of a run.
"""

import asyncio
from datetime import UTC, datetime

from cryptography import x509

from fedkd.server.hub.call_limits import certificate_of
from fedkd.wire.grpc_channels import grpc

RECHECK_SECONDS = 600.0
"""Between two looks at the clock, which may be set while a session lasts."""


def expiry_of(stream: grpc.aio.ServicerContext) -> datetime | None:
    """Until when the client certificate of a connection is valid (UTC); None if it has none."""
    certificate = certificate_of(stream)
    if certificate is None:
        return None
    return x509.load_der_x509_certificate(certificate).not_valid_after_utc


def has_expired(expiry: datetime | None) -> bool:
    """Whether this moment has passed."""
    return expiry is not None and datetime.now(UTC) > expiry


def expiry_text(name: str, expiry: datetime) -> str:
    """That the certificate of ``name`` has expired, and what to do."""
    return (
        f"the certificate of {name!r} expired on {expiry:%Y-%m-%d %H:%M:%S} UTC; "
        "come back with a renewed one"
    )


async def wait_for_expiry(expiry: datetime) -> None:
    """Returns once ``expiry`` has passed, by this machine's clock."""
    while not has_expired(expiry):
        left = (expiry - datetime.now(UTC)).total_seconds()
        await asyncio.sleep(min(max(left, 0.0) + 0.01, RECHECK_SECONDS))
