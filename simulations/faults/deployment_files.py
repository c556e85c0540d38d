"""Files of a deployment for fault injection: certificates, join tokens, owner configs, teachers.

    FOLDER/tls/            all certificates, and an expired one for each malicious institution
    FOLDER/tokens          digests of join tokens
    FOLDER/experiment.toml of every run
    FOLDER/NAME/           owner.toml, token, weights, state/ with ledger: one institution
    FOLDER/runs/           folders of runs

Data are divided evenly among honest institutions; each other one has the images of one of them, so
that a ban removes no knowledge from the ensemble. Each trains a teacher of its own. Strangers have
a certificate and a token, and nothing else.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from safetensors.torch import save_file

from fedkd.client.vault.training.settings import SupervisedSettings
from fedkd.client.vault.training.supervised import train_teacher
from fedkd.data.datasets import open_data
from fedkd.data.partition import partition
from fedkd.models import build_network
from fedkd.server.hub.admission import JoinTokens
from fedkd.server.hub.tls_certificates import make_certificates
from fedkd.simulations.faults.stalling_teacher import StallingTeacher
from fedkd.simulations.rehearsal.free_ports import free_ports

MODEL, CLASSES, SHAPE = "cnn", 10, (1, 8, 8)
BUDGET, BATCH, STEPS = 5120, 64, 1200
QUESTIONS = BUDGET // BATCH
TIMEOUT, LINGER = 4.0, 0.75
"""Seconds that a query may take, and that late answers have once a quorum has answered."""
QUORUM = 2
ANSWER_SECONDS = 0.04
"""Seconds that a teacher adds to every answer."""
EXPERIMENT = f"""\
[institutions]
count = %d

[method]
name = "cudfkd"
distillation_loss = "kl"

[student]
steps = {STEPS}
batch = 128
learning_rate = 5e-3

[questions]
budget = {BUDGET}
batch = {BATCH}
quorum = {QUORUM}
timeout = {TIMEOUT}
linger = {LINGER}
"""


@dataclass(frozen=True)
class DeploymentFiles:
    """A folder with the files of coordinator and institutions.

    Attributes:
        folder: empty at first; its path must be short, for Unix sockets.
        honest: names of honest institutions.
        malicious: names of institutions that will violate the protocol.
        liars: names of institutions whose answers will be lies.
        strangers: names with a certificate and a token that are no institutions of the run.
        port: of the coordinator.
    """

    folder: Path
    honest: list[str]
    malicious: list[str]
    liars: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    port: int = field(default_factory=lambda: free_ports(1)[0])

    @property
    def names(self) -> list[str]:
        """Names of all institutions."""
        return [*self.honest, *self.malicious, *self.liars]

    @property
    def address(self) -> str:
        """Of the coordinator itself."""
        return f"127.0.0.1:{self.port}"

    @property
    def tls(self) -> Path:
        """Folder of all certificates; on real machines each party has only its own."""
        return self.folder / "tls"

    @property
    def experiment(self) -> Path:
        """The experiment of every run."""
        return self.folder / "experiment.toml"

    def institution_folder(self, name: str) -> Path:
        """Folder of one institution."""
        return self.folder / name

    def ledger(self, name: str) -> Path:
        """Ledger of one institution."""
        return self.institution_folder(name) / "state" / "ledger.sqlite"

    def create(
        self, ports: dict[str, int], on_ready: Callable[[str], None], epochs: int = 40
    ) -> None:
        """Create all files and train all teachers.

        Args:
            ports: by institution, the port it dials.
            on_ready: called with the name of each institution that is ready.
            epochs: of every teacher.
        """
        make_certificates(self.tls, [*self.names, *self.strangers])
        tokens = JoinTokens(self.folder / "tokens")
        self.experiment.write_text(EXPERIMENT % len(self.names))
        data = open_data("digits")
        parts = partition(data.train_labels, len(self.honest), "iid")
        for index, (name, part) in enumerate(zip(self.names, cycle(parts), strict=False)):
            folder = self.institution_folder(name)
            folder.mkdir(mode=0o700)
            images, labels = data.train_images[part], data.train_labels[part]
            teacher = train_teacher(
                MODEL, images, labels, CLASSES, SupervisedSettings(epochs), index
            )
            network = build_network(MODEL, CLASSES, SHAPE, 0)
            network.load_state_dict(teacher.module.state_dict())  # type: ignore[union-attr]
            save_file(
                StallingTeacher(network, folder, ANSWER_SECONDS).state_dict(),
                folder / "weights.safetensors",
            )
            _write_token(folder, tokens.issue(name))
            (folder / "owner.toml").write_text(self._owner_config(name, ports[name]))
            if name in self.malicious:
                _write_expired_certificate(self.tls, name)
            on_ready(name)
        for name in self.strangers:
            self.institution_folder(name).mkdir(mode=0o700)
            _write_token(self.institution_folder(name), tokens.issue(name))

    def _owner_config(self, name: str, port: int) -> str:
        """The owner config of an institution: TOML, whose values are written as JSON."""
        address = f"127.0.0.1:{port}"
        options = {
            "model": MODEL,
            "shape": list(SHAPE),
            "classes": CLASSES,
            "folder": str(self.institution_folder(name)),
            "answer_seconds": ANSWER_SECONDS,
        }
        tables: dict[str, dict[str, object]] = {
            "teacher": {
                "source": "factory:fedkd.simulations.faults.stalling_teacher:make",
                "weights": "weights.safetensors",
                "shape": list(SHAPE),
                "classes": CLASSES,
            },
            "teacher.options": options,
            "policy": {
                "signals": ["logits"],
                "samples": 10_000_000,
                "samples_per_hour": 1_000_000,
                "servers": [address],
            },
            "connection": {
                "server": address,
                "ca": str(self.tls / "ca.pem"),
                "certificate": str(self.tls / f"{name}.pem"),
                "key": str(self.tls / f"{name}.key"),
                "token_file": "token",
            },
        }
        lines = [f"name = {json.dumps(name)}"]
        for table, values in tables.items():
            lines += ["", f"[{table}]", *(f"{k} = {json.dumps(v)}" for k, v in values.items())]
        return "\n".join([*lines, ""])


def _write_token(folder: Path, token: str) -> None:
    """Write a join token into the folder of whom it is for, readable to its owner alone."""
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(token)


def _write_expired_certificate(tls: Path, name: str) -> None:
    """Write NAME.expired.pem: the same certificate, expired since yesterday."""
    authority = x509.load_pem_x509_certificate((tls / "ca.pem").read_bytes())
    key = load_pem_private_key((tls / "ca.key").read_bytes(), None)
    valid = x509.load_pem_x509_certificate((tls / f"{name}.pem").read_bytes())
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        authority.subject,
        valid.subject,
        valid.public_key(),
        x509.random_serial_number(),
        now - timedelta(days=30),
        now - timedelta(days=1),
    )
    for extension in valid.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    expired = builder.sign(key, SHA256())  # type: ignore[arg-type]
    (tls / f"{name}.expired.pem").write_bytes(expired.public_bytes(Encoding.PEM))
