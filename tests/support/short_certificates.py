"""Real certificates that end within seconds, and a hub that trusts them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from fedkd.server.hub.tls_certificates import make_certificates, server_credentials
from fedkd.wire.grpc_channels import grpc

DAY = timedelta(days=1)


def expiring_certificates(folder: Path, name: str, seconds: float) -> datetime:
    """The certificate of ``name``, valid for so many seconds from now on; returns its end."""
    now = datetime.now(UTC)
    make_certificates(folder, [name], days=1, start=now + timedelta(seconds=seconds) - DAY)
    return (now + timedelta(seconds=seconds)).replace(microsecond=0)


def channel_credentials(folder: Path, name: str, ca: Path) -> grpc.ChannelCredentials:
    """What an institution shows; it trusts the hub of the authority in ``ca``."""
    files = (ca / "ca.pem", folder / f"{name}.key", folder / f"{name}.pem")
    return grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))


def hub_credentials(folder: Path, own: Path, *others: Path) -> grpc.ServerCredentials:
    """Of a hub with the certificate in ``own`` that trusts all these authorities."""
    folder.mkdir()
    for file in ("server.pem", "server.key"):
        (folder / file).write_bytes((own / file).read_bytes())
    trusted = b"".join((each / "ca.pem").read_bytes() for each in (own, *others))
    (folder / "ca.pem").write_bytes(trusted)
    return server_credentials(folder)
