"""Serving a teacher: TLS both ways, what is refused, and the ledger that outlives the process."""

import threading
from pathlib import Path
from typing import Any

import pytest

import fedkd
from fedkd.client.ledger.ledger import Ledger
from fedkd.errors import SettingsError
from fedkd.models import build_network
from fedkd.server.hub.tls_certificates import make_certificates
from fedkd.simulations.rehearsal.free_ports import free_ports

SHAPE = (1, 8, 8)
TEACHER: dict[str, Any] = {"shape": SHAPE, "name": "north", "token": "ours"}


def test_a_fit_over_tls_and_what_the_ledger_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "fedkd.server.report.records.run_folder.export_onnx", lambda *a: {"skipped": "not here"}
    )
    certificates, state = tmp_path / "certs", tmp_path / "state"
    make_certificates(certificates, ["north"])
    address, ended = f"127.0.0.1:{free_ports(1)[0]}", list[str]()
    teacher = build_network("mlp", 4, SHAPE, 0)

    def institution() -> None:
        more = {"samples": 100, "state": state, "tls": certificates}
        ended.append(fedkd.serve(teacher, address, **TEACHER, **more))  # type: ignore[arg-type]

    thread = threading.Thread(target=institution)
    thread.start()
    result = fedkd.fit(
        "mlp", listen=address, token="ours", tls=certificates, budget=96, steps=8, progress=False
    )
    thread.join(30)
    assert ended == ["over"]
    assert result.result["teachers"][0]["samples_asked"] == 96
    assert result.result["engine"] == "hub"
    assert result.held_back["count"] >= 1  # type: ignore[operator]
    ledger = Ledger(state / "ledger.sqlite")
    assert ledger.totals.asked == 96
    ledger.close()


def test_a_wrong_token_is_refused(tmp_path: Path) -> None:
    address, refused = f"127.0.0.1:{free_ports(1)[0]}", list[str]()

    def institution() -> None:
        try:
            fedkd.serve(
                build_network("mlp", 4, SHAPE, 0),
                address,
                **{**TEACHER, "token": "theirs"},
                samples=10,
                state=tmp_path / "state",
            )
        except SettingsError as error:
            refused.append(str(error))

    thread = threading.Thread(target=institution)
    thread.start()
    from fedkd.errors import QuorumLost

    with pytest.raises(QuorumLost):
        fedkd.fit("mlp", listen=address, token="ours", wait=4.0, progress=False)
    thread.join(30)
    assert refused == [
        f"{address} refused north; ask the coordinator about the token, the name and the card, "
        "and see the log of fedkd.client"
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "give either samples"),
        ({"samples": 1, "policy": fedkd.Policy()}, "give either samples"),
        ({"samples": 1, "server": "elsewhere.org:8930"}, "TLS"),
        ({"samples": 1, "server": "nowhere"}, "host:port"),
        ({"samples": 1, "classes": 5}, "answers"),
    ],
)
def test_mistakes_are_told_before_anything_is_dialled(
    tmp_path: Path, arguments: dict[str, Any], words: str
) -> None:
    given = {"server": "127.0.0.1:1", **TEACHER, "state": tmp_path / "state", **arguments}
    with pytest.raises(Exception, match=words) as caught:
        fedkd.serve(build_network("mlp", 4, SHAPE, 0), **given)
    assert type(caught.value).__module__ == "fedkd.errors"
