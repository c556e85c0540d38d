"""Codec and session against rubbish, both ways; the long runs are commands of simulations."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkd.simulations.checks import fuzz, soak
from fedkd.simulations.checks import malformed_messages as rubbish
from fedkd.simulations.checks.malformed_messages import SPOILS, VALID, DefectError, hear, opened
from fedkd.wire import Invalid, Role

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=60, deadline=None)
@given(speaker=st.sampled_from(Role), data=st.binary(max_size=300), seed=SEEDS)
def test_bytes_of_no_meaning_are_refused_as_the_protocol_has_it(
    speaker: Role, data: bytes, seed: int
) -> None:
    hear(speaker, opened(speaker.other, random.Random(seed)), data)


@settings(max_examples=60, deadline=None)
@given(speaker=st.sampled_from(Role), spoil=st.sampled_from(SPOILS), seed=SEEDS)
def test_spoilt_messages_are_refused_as_the_protocol_has_it(
    speaker: Role, spoil: rubbish.Spoil, seed: int
) -> None:
    rng = random.Random(seed)
    session = opened(speaker.other, rng)
    for _ in range(5):
        hear(speaker, session, spoil(rng, VALID[speaker]))


def test_a_few_thousand_messages_come_to_what_the_command_says(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    assert fuzz.main(["--messages", "3000", "--seed", "7", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert sum(figures["outcomes"].values()) == 3000
    assert figures["outcomes"].keys() >= {"no message", "unlawful", "taken: Answer", "taken: Hello"}
    assert {kind for kind, came in figures["by_kind"].items() if "taken" in came} >= {"untouched"}


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("decode_from_institution", lambda data: data[2**70]),
        ("decode_from_institution", lambda data: {}[data]),
        ("encode", lambda message: b""),
    ],
)
def test_a_defect_is_found(name: str, instead: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rubbish, name, instead)
    with pytest.raises(DefectError, match=r"message \d+ of seed 3"):
        fuzz.fuzz(3000, 3, shown=False)


def test_a_session_that_changes_by_what_it_refuses_is_a_defect() -> None:
    session = opened(Role.COORDINATOR, random.Random(0))
    receive = session.receive

    def forgetful(message: object) -> None:
        session.state = None  # type: ignore[assignment]
        receive(message)  # type: ignore[arg-type]

    session.receive = forgetful  # type: ignore[method-assign]
    with pytest.raises(DefectError, match="changed"):
        hear(Role.INSTITUTION, session, b"\xff")
    assert isinstance(rubbish.decode_from_institution(b"\xff"), Invalid)


def test_a_short_soak_measures_the_hub_alone(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    assert soak.main(["--agents", "1", "--rounds", "20", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert (figures["answers"], figures["absent"]) == (20, 0)
    assert figures["resident_mib"]["20"] > 10
