"""Certificates: made for development, read and checked for any run. Knows no hub and no loop.

    DIR/ca.pem, ca.key            who vouches for everybody; production keeps this key elsewhere
    DIR/server.pem, server.key    the coordinator's, for localhost, 127.0.0.1 and hosts given
    DIR/NAME.pem, NAME.key        an institution's: its name stands in the certificate
    DIR/NAME.node, NAME.node.pub  where asked for: by which Flower knows the institution's SuperNode

A coordinator needs ca.pem, server.pem and server.key; an institution ca.pem and its own two files.
"""

import ipaddress
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedkd.errors import SettingsError
from fedkd.wire.channel import grpc

CA, SERVER = "ca", "server"
HERE = ("localhost", "127.0.0.1")
"""Hosts that every server certificate is for."""
SOON = timedelta(days=14)
"""A certificate that ends earlier is warned of."""
SKEW = timedelta(minutes=5)
"""By which clocks may differ."""
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
"""What may stand in a certificate as an institution's name, and in a file's."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_certificates(
    folder: Path,
    institutions: Sequence[str],
    hosts: Sequence[str] = (),
    *,
    days: int = 30,
    flower: bool = False,
    start: datetime | None = None,
) -> list[Path]:
    """Write a certificate authority, and what the coordinator and each institution need of it.

    For development: whoever reads this folder can be anybody.

    Args:
        folder: made if it is not there, for its owner alone.
        institutions: their names, as on their cards.
        hosts: names or addresses of the coordinator, besides this machine's.
        days: for which they hold, >= 1.
        flower: also keys by which Flower knows SuperNodes.
        start: from which they hold; None for now.

    Returns:
        The files.

    Raises:
        SettingsError: a name that cannot be one, or a file that is there already.
    """
    if days < 1:
        raise SettingsError(f"certificates for {days} days; expected 1 or more")
    for name in institutions:
        if not NAME.fullmatch(name) or name.lower() in (CA, SERVER):
            raise SettingsError(
                f"an institution cannot be called {name!r} in a certificate; give 1 to 63 of "
                f"A-Z a-z 0-9 . _ - and neither {CA} nor {SERVER}"
            )
    if len({name.lower() for name in institutions}) < len(institutions):
        raise SettingsError("two institutions have one name; give each its own")
    began = start or datetime.now(UTC)
    span = (began - SKEW, began + timedelta(days=days))
    authority = _authority(span)
    files = _pair(CA, authority)
    files |= _pair(SERVER, _issue(authority, SERVER, [_host(h) for h in (*HERE, *hosts)], span))
    for name in institutions:
        files |= _pair(name, _issue(authority, name, [x509.DNSName(name)], span))
        if flower:
            files |= _node_keys(name)
    return _write(folder, files)


def server_credentials(folder: Path) -> grpc.ServerCredentials:
    """The coordinator's TLS, which asks every institution for a certificate of its own.

    Args:
        folder: with ca.pem, server.pem and server.key.

    Raises:
        SettingsError: a file is missing or is none, they do not fit, or one has expired.
    """
    authority, server, key = (
        _read(folder, name) for name in ("ca.pem", "server.pem", "server.key")
    )
    _check_dates(authority, folder / "ca.pem")
    certificate = _check_dates(server, folder / "server.pem")
    try:
        fits = load_pem_private_key(key, None).public_key() == certificate.public_key()
    except (ValueError, TypeError):
        raise SettingsError(
            f"{folder / 'server.key'} is no private key in PEM without a password; make it anew"
        ) from None
    if not fits:
        raise SettingsError(
            f"{folder / 'server.key'} is not the key of server.pem; copy both from one place"
        )
    return grpc.ssl_server_credentials([(key, server)], authority, require_client_auth=True)


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise SettingsError(
            f"cannot read {folder / name}: {error.strerror}; --tls names the folder with ca.pem, "
            "server.pem and server.key (`fedkd-server certificates` makes them for development)"
        ) from None


def _check_dates(data: bytes, path: Path) -> x509.Certificate:
    """The first certificate of a file, if it holds today."""
    try:
        certificate = x509.load_pem_x509_certificates(data)[0]
    except (ValueError, IndexError):
        raise SettingsError(f"{path} is no certificate in PEM; make it anew") from None
    now, end = datetime.now(UTC), certificate.not_valid_after_utc
    if end < now:
        raise SettingsError(f"{path} expired on {end:%Y-%m-%d %H:%M} UTC; make it anew")
    if certificate.not_valid_before_utc > now:
        raise SettingsError(
            f"{path} holds only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; "
            "set this machine's clock, or wait"
        )
    if end - now < SOON:
        log.warning("%s expires on %s UTC; renew it", path, f"{end:%Y-%m-%d %H:%M}")
    return certificate


Span = tuple[datetime, datetime]


def _authority(span: Span) -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _subject("fedkd development CA")
    certificate = (
        _unsigned(name, name, key.public_key(), span)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )
    return _Authority(certificate, key)


def _issue(
    authority: _Authority, name: str, names: Sequence[x509.GeneralName], span: Span
) -> _Authority:
    """A certificate for these names, and its key: a coordinator serves, an institution dials."""
    key = ec.generate_private_key(ec.SECP256R1())
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if name == SERVER else ExtendedKeyUsageOID.CLIENT_AUTH
    issuer = authority.key.public_key()
    certificate = (
        _unsigned(_subject(name), authority.certificate.subject, key.public_key(), span)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
        .sign(authority.key, SHA256())
    )
    return _Authority(certificate, key)


def _unsigned(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, span: Span
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number(), *span)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not host.isascii() or not re.fullmatch(r"[\w.*-]+", host):
            raise SettingsError(
                f"host {host!r}; expected a name as in example.org, or an address, and no port"
            ) from None
        return x509.DNSName(host)


def _pair(name: str, issued: _Authority) -> dict[str, bytes]:
    key = issued.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return {f"{name}.pem": issued.certificate.public_bytes(Encoding.PEM), f"{name}.key": key}


def _node_keys(name: str) -> dict[str, bytes]:
    """OpenSSH's format and a NIST curve, which Flower asks for; P-384 is what it recommends."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return {f"{name}.node": private, f"{name}.node.pub": public + b"\n"}


def _write(folder: Path, files: dict[str, bytes]) -> list[Path]:
    """All files or none, keys for their owner's eyes alone."""
    there = [name for name in files if (folder / name).exists()]
    if there:
        raise SettingsError(
            f"{folder / there[0]} is there already, and nothing is overwritten; name another folder"
        )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, data in files.items():
            mode = 0o644 if name.endswith((".pem", ".pub")) else 0o600
            with os.fdopen(
                os.open(folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb"
            ) as file:
                file.write(data)
    except OSError as error:
        raise SettingsError(f"cannot write to {folder}: {error.strerror}; name another") from None
    return [folder / name for name in files]
