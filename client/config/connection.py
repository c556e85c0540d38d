"""The [connection] table of an owner's file: check and read its TLS files and token."""

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Self

from cryptography import x509
from pydantic import AfterValidator, model_validator

from fedkd.errors import SettingsError
from fedkd.experiment import ResolvedPath, Section
from fedkd.wire.grpc_channels import grpc, host_of


def _address(address: str) -> str:
    host_of(address)
    return address


Address = Annotated[str, AfterValidator(_address)]
"""host:port."""


class ConnectionTable(Section):
    """The coordinator to dial, and the files for mutual TLS."""

    server: Address | None = None
    ca: ResolvedPath | None = None
    """Certificate of the authority that signed the coordinator's."""
    certificate: ResolvedPath | None = None
    """The institution's own; it must contain the institution's name."""
    key: ResolvedPath | None = None
    token_file: ResolvedPath | None = None
    """The token of the run, or of this institution. With Flower it comes by the control socket."""
    insecure: bool = False
    """Plain text, to a coordinator on this machine only."""

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        files = (self.ca, self.certificate, self.key)
        if self.insecure and any(files):
            raise SettingsError("connection.insecure = true beside TLS files; keep one of them")
        if not self.insecure and not all(files):
            raise SettingsError(
                "connection needs ca, certificate and key, the files of TLS; only to a "
                "coordinator on this machine will insecure = true do instead"
            )
        return self

    def credentials(self) -> grpc.ChannelCredentials | None:
        """TLS both ways; None for plain text.

        Raises:
            SettingsError: a file is missing, has expired, does not fit the others, or is a key
                that others can read.
        """
        if self.ca is None or self.certificate is None or self.key is None:
            return None
        ca, chain = _read(self.ca, "connection.ca"), _read(self.certificate, "certificate")
        key = _read_secret(self.key, "connection.key")
        try:
            context = ssl.create_default_context(cadata=ca.decode("ascii"))
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
            expiry = x509.load_pem_x509_certificate(chain).not_valid_after_utc
        except (ssl.SSLError, ValueError):
            raise SettingsError(
                "connection.ca, certificate and key do not fit together; each must be a PEM file, "
                "and the key, without a password, that of the certificate"
            ) from None
        if expiry < datetime.now(UTC):
            raise SettingsError(f"connection.certificate expired on {expiry:%Y-%m-%d}; renew it")
        return grpc.ssl_channel_credentials(ca, key, chain)

    def expiry(self) -> datetime | None:
        """Until when the institution's certificate is valid (UTC); None for plain text.

        Raises:
            SettingsError: it cannot be read.
        """
        if self.certificate is None:
            return None
        chain = _read(self.certificate, "certificate")
        try:
            return x509.load_pem_x509_certificate(chain).not_valid_after_utc
        except ValueError:
            raise SettingsError(
                f"certificate, {self.certificate}, is no certificate in PEM; make it anew"
            ) from None

    def token(self) -> str | None:
        """The token in the token file; None where no file is named.

        Raises:
            SettingsError: it is empty, or others can read it.
        """
        if self.token_file is None:
            return None
        token = _read_secret(self.token_file, "connection.token_file").decode("utf-8", "replace")
        if not token.strip():
            raise SettingsError("connection.token_file is empty; ask the coordinator for a token")
        return token.strip()


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read {what}, {path}: {error.strerror}") from error


def _read_secret(path: Path, what: str) -> bytes:
    """The content of a file that nobody but the owner may read."""
    content = _read(path, what)
    if others := path.stat().st_mode & 0o077:
        raise SettingsError(
            f"{what}, {path}, is open to others (mode {others:03o}); chmod 600 it, and renew what "
            "is in it if somebody may have read it"
        )
    return content


def _no_password() -> str:
    """Replaces OpenSSL's prompt at the terminal."""
    raise ValueError("the key has a password")
