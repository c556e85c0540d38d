"""Fuzzing of codec and session in both directions, and a short soak; long runs are programs."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkd.simulations.checks import fuzz, malformed_messages, soak
from fedkd.simulations.checks.malformed_messages import (
    MUTATIONS,
    VALID,
    DefectError,
    deliver,
    open_session,
)
from fedkd.wire import Invalid, Role

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=60, deadline=None)
@given(sender=st.sampled_from(Role), data=st.binary(max_size=300), seed=SEEDS)
def test_random_bytes_are_refused_by_the_protocol(sender: Role, data: bytes, seed: int) -> None:
    deliver(sender, open_session(sender.other, random.Random(seed)), data)


@settings(max_examples=60, deadline=None)
@given(sender=st.sampled_from(Role), mutation=st.sampled_from(MUTATIONS), seed=SEEDS)
def test_mutated_messages_are_refused_by_the_protocol(
    sender: Role, mutation: malformed_messages.Spoil, seed: int
) -> None:
    rng = random.Random(seed)
    session = open_session(sender.other, rng)
    for _ in range(5):
        deliver(sender, session, mutation(rng, VALID[sender]))


def test_the_program_counts_outcomes_of_a_few_thousand_messages(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    assert fuzz.main(["--messages", "3000", "--seed", "7", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert sum(figures["outcomes"].values()) == 3000
    assert figures["outcomes"].keys() >= {
        "undecodable",
        "protocol error",
        "accepted: Answer",
        "accepted: Hello",
    }
    assert {kind for kind, counts in figures["by_kind"].items() if "accepted" in counts} >= {
        "untouched"
    }


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("decode_from_institution", lambda data: data[2**70]),
        ("decode_from_institution", lambda data: {}[data]),
        ("encode", lambda message: b""),
    ],
)
def test_a_defect_is_found(name: str, instead: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(malformed_messages, name, instead)
    with pytest.raises(DefectError, match=r"message \d+ of seed 3"):
        fuzz.fuzz(3000, 3, show_progress=False)


def test_a_session_that_changes_state_by_a_refused_message_is_a_defect() -> None:
    session = open_session(Role.COORDINATOR, random.Random(0))
    receive = session.receive

    def forgetful(message: object) -> None:
        session.state = None  # type: ignore[assignment]
        receive(message)  # type: ignore[arg-type]

    session.receive = forgetful  # type: ignore[method-assign]
    with pytest.raises(DefectError, match="changed"):
        deliver(Role.INSTITUTION, session, b"\xff")
    assert isinstance(malformed_messages.decode_from_institution(b"\xff"), Invalid)


def test_a_short_soak_measures_the_hub_alone(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    assert soak.main(["--agents", "1", "--rounds", "20", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert (figures["answers"], figures["absent"]) == (20, 0)
    assert figures["resident_mib"]["20"] > 10
