"""Where the campaign takes place: files, certificates, tokens, teachers. Knows no process.

    FOLDER/tls/            certificates of everybody, and an expired one for each saboteur
    FOLDER/tokens          digests of join tokens
    FOLDER/experiment.toml what every run does
    FOLDER/NAME/           owner.toml, token, weights, state/ with ledger: one institution
    FOLDER/runs/           folders of runs

Data are dealt evenly among the honest, and each saboteur has the images of one of them: whoever is
struck off takes along no knowledge that the others have not. Each trains a teacher of its own.
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

from fedkd.client.vault.training.supervised import SupervisedSettings, train_teacher
from fedkd.data.datasets import open_data
from fedkd.data.partition import partition
from fedkd.models import build
from fedkd.server.hub.admission import JoinTokens
from fedkd.server.hub.certificates import make_certificates
from fedkd.simulations.faults.stalling_teacher import Stalling
from fedkd.simulations.rehearsal.flwr_run import free_ports

MODEL, CLASSES, SHAPE = "cnn", 10, (1, 8, 8)
BUDGET, BATCH, STEPS = 5120, 64, 1200
QUESTIONS = BUDGET // BATCH
TIMEOUT, LINGER = 4.0, 0.75
"""Seconds that a question may take, and that late ones have once a quorum has answered."""
QUORUM = 2
PACE = 0.04
"""Seconds that a teacher takes for an answer."""
EXPERIMENT = f"""\
[institutions]
count = %d

[method]
name = "cudfkd"
imitation = "kl"

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
class Site:
    """A folder, and who lives in it.

    Attributes:
        folder: empty at first, short of name: there are sockets in it.
        honest: names of institutions.
        saboteurs: names of institutions that will misbehave.
        port: where the coordinator listens.
    """

    folder: Path
    honest: list[str]
    saboteurs: list[str]
    port: int = field(default_factory=lambda: free_ports(1)[0])

    @property
    def names(self) -> list[str]:
        """Of everybody."""
        return [*self.honest, *self.saboteurs]

    @property
    def tls(self) -> Path:
        """Certificates; on real machines each has only its own."""
        return self.folder / "tls"

    @property
    def experiment(self) -> Path:
        """What every run does."""
        return self.folder / "experiment.toml"

    def of(self, name: str) -> Path:
        """What is one institution's."""
        return self.folder / name

    def ledger(self, name: str) -> Path:
        """An institution's books."""
        return self.of(name) / "state" / "ledger.sqlite"

    def prepare(
        self, ports: dict[str, int], watch: Callable[[str], None], epochs: int = 40
    ) -> None:
        """Make everything.

        Args:
            ports: by institution, where it is to dial.
            watch: is told who is ready.
            epochs: of every teacher.
        """
        make_certificates(self.tls, self.names)
        tokens = JoinTokens(self.folder / "tokens")
        self.experiment.write_text(EXPERIMENT % len(self.names))
        data = open_data("digits")
        shares = partition(data.train_labels, len(self.honest), "iid")
        for index, (name, share) in enumerate(zip(self.names, cycle(shares), strict=False)):
            here = self.of(name)
            here.mkdir(mode=0o700)
            images, labels = data.train_images[share], data.train_labels[share]
            taught = train_teacher(
                MODEL, images, labels, CLASSES, SupervisedSettings(epochs), index
            )
            network = build(MODEL, CLASSES, SHAPE, 0)
            network.load_state_dict(taught.module.state_dict())  # type: ignore[union-attr]
            save_file(Stalling(network, here, PACE).state_dict(), here / "weights.safetensors")
            (here / "token").touch(mode=0o600)
            (here / "token").write_text(tokens.issue(name))
            (here / "owner.toml").write_text(self._owner(name, ports[name]))
            if name in self.saboteurs:
                _expire(self.tls, name)
            watch(name)

    def _owner(self, name: str, port: int) -> str:
        """What an owner writes: TOML, and JSON's values are TOML's."""
        address = f"127.0.0.1:{port}"
        options = {
            "model": MODEL,
            "shape": list(SHAPE),
            "classes": CLASSES,
            "folder": str(self.of(name)),
            "pace": PACE,
        }
        tables: dict[str, dict[str, object]] = {
            "teacher": {
                "source": "factory:fedkd.simulations.faults.stalling_teacher:make",
                "weights": "weights.safetensors",
                "shape": list(SHAPE),
                "classes": CLASSES,
            },
            "teacher.options": options,
            "policy": {"signals": ["logits"], "samples": 10_000_000, "servers": [address]},
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


def _expire(tls: Path, name: str) -> None:
    """NAME.expired.pem: the same certificate by the same authority, until yesterday."""
    authority = x509.load_pem_x509_certificate((tls / "ca.pem").read_bytes())
    key = load_pem_private_key((tls / "ca.key").read_bytes(), None)
    good = x509.load_pem_x509_certificate((tls / f"{name}.pem").read_bytes())
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        authority.subject,
        good.subject,
        good.public_key(),
        x509.random_serial_number(),
        now - timedelta(days=30),
        now - timedelta(days=1),
    )
    for extension in good.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    expired = builder.sign(key, SHA256())  # type: ignore[arg-type]
    (tls / f"{name}.expired.pem").write_bytes(expired.public_bytes(Encoding.PEM))
