"""TLS certificates: make a development CA with its certificates, load and check the server's.

    DIR/ca.pem, ca.key            the certificate authority; production keeps this key elsewhere
    DIR/server.pem, server.key    the coordinator's, for localhost, 127.0.0.1 and hosts given
    DIR/NAME.pem, NAME.key        an institution's: its name stands in the certificate
    DIR/NAME.node, NAME.node.pub  on request: keys that authenticate its SuperNode to Flower

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
from fedkd.wire.grpc_channels import grpc

CA, SERVER = "ca", "server"
LOCAL_HOSTS = ("localhost", "127.0.0.1")
"""Hosts that stand in every server certificate."""
EXPIRY_WARNING = timedelta(days=14)
"""A certificate that expires sooner is warned of."""
CLOCK_SKEW = timedelta(minutes=5)
"""Tolerated difference between clocks."""
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
"""Valid names of institutions in certificates and file names."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _KeyPair:
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
    """Write a certificate authority, and certificates of the coordinator and each institution.

    For development only: anybody who can read this folder can impersonate every party.

    Args:
        folder: created for its owner alone if it does not exist.
        institutions: their names, as on their cards.
        hosts: names or addresses of the coordinator, besides this machine's.
        days: of validity, >= 1.
        flower: also write authentication keys of SuperNodes.
        start: of validity; None for now.

    Returns:
        The files.

    Raises:
        SettingsError: a name is not valid, or a file exists already.
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
    validity = (began - CLOCK_SKEW, began + timedelta(days=days))
    authority = _authority(validity)
    files = _pem_files(CA, authority)
    files |= _pem_files(
        SERVER, _issue(authority, SERVER, [_host(h) for h in (*LOCAL_HOSTS, *hosts)], validity)
    )
    for name in institutions:
        files |= _pem_files(name, _issue(authority, name, [x509.DNSName(name)], validity))
        if flower:
            files |= _node_keys(name)
    return _write(folder, files)


def server_credentials(folder: Path) -> grpc.ServerCredentials:
    """The coordinator's TLS credentials, which require client certificates.

    Args:
        folder: with ca.pem, server.pem and server.key.

    Raises:
        SettingsError: a file is missing or malformed, they do not match, or one has expired.
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
    """The first certificate of a file, if it is valid today."""
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
    if end - now < EXPIRY_WARNING:
        log.warning("%s expires on %s UTC; renew it", path, f"{end:%Y-%m-%d %H:%M}")
    return certificate


Validity = tuple[datetime, datetime]


def _authority(validity: Validity) -> _KeyPair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _subject("fedkd development CA")
    certificate = (
        _unsigned(name, name, key.public_key(), validity)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )
    return _KeyPair(certificate, key)


def _issue(
    authority: _KeyPair, name: str, names: Sequence[x509.GeneralName], validity: Validity
) -> _KeyPair:
    """A server or client certificate for these names, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if name == SERVER else ExtendedKeyUsageOID.CLIENT_AUTH
    issuer = authority.key.public_key()
    certificate = (
        _unsigned(_subject(name), authority.certificate.subject, key.public_key(), validity)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
        .sign(authority.key, SHA256())
    )
    return _KeyPair(certificate, key)


def _unsigned(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, validity: Validity
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number(), *validity)


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


def _pem_files(name: str, issued: _KeyPair) -> dict[str, bytes]:
    key = issued.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return {f"{name}.pem": issued.certificate.public_bytes(Encoding.PEM), f"{name}.key": key}


def _node_keys(name: str) -> dict[str, bytes]:
    """A key pair as Flower requires it: OpenSSH's format, a NIST curve (P-384 is recommended)."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return {f"{name}.node": private, f"{name}.node.pub": public + b"\n"}


def _write(folder: Path, files: dict[str, bytes]) -> list[Path]:
    """Writes all files or none; keys are readable by their owner only."""
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
