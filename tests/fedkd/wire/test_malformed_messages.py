"""Malformed messages, both ways: nothing but the protocol's own errors may come of them.

For as long as you like, with what came of how many messages:

    .venv/bin/python -m pytest tests/fedkd/wire/test_malformed_messages.py -n 0 \\
        --hypothesis-profile=long --hypothesis-show-statistics
"""

import random

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from fedkd.wire import Invalid, Role, State, decode_from_coordinator, decode_from_institution
from tests.support import malformed_messages
from tests.support.malformed_messages import (
    MUTATIONS,
    VALID,
    DefectError,
    Mutation,
    deliver,
    open_session,
)

SEEDS = st.integers(0, 2**32 - 1)
SENDERS = st.sampled_from(Role)


@given(sender=SENDERS, data=st.binary(max_size=300), seed=SEEDS)
def test_random_bytes_are_refused_by_the_protocol(sender: Role, data: bytes, seed: int) -> None:
    event(deliver(sender, open_session(sender.other, random.Random(seed)), data))


@given(
    sender=SENDERS,
    mutations=st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=8),
    seed=SEEDS,
)
def test_a_session_takes_mutated_messages_or_refuses_them(
    sender: Role, mutations: list[Mutation], seed: int
) -> None:
    rng = random.Random(seed)
    session = open_session(sender.other, rng)
    for mutation in mutations:
        event(f"{mutation.__name__}: {deliver(sender, session, mutation(rng, VALID[sender]))}")
        if session.state is State.CLOSED:
            session = open_session(sender.other, rng)


@given(
    sender=SENDERS,
    at=st.floats(0, 1, exclude_max=True),
    of=st.integers(0, 100),
    removed=st.integers(0, 3),
    inserted=st.binary(max_size=3),
    seed=SEEDS,
)
def test_a_changed_place_in_a_valid_message_is_refused_or_harmless(
    sender: Role, at: float, of: int, removed: int, inserted: bytes, seed: int
) -> None:
    valid = VALID[sender][of % len(VALID[sender])]
    place = int(at * len(valid))
    data = valid[:place] + inserted + valid[place + removed :]
    event(deliver(sender, open_session(sender.other, random.Random(seed)), data))


def test_messages_that_are_mutated_are_valid_before() -> None:
    for data in VALID[Role.INSTITUTION]:
        assert not isinstance(decode_from_institution(data), Invalid)
    for data in VALID[Role.COORDINATOR]:
        assert not isinstance(decode_from_coordinator(data), Invalid)


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
    session = open_session(Role.COORDINATOR, random.Random(3))
    with pytest.raises(DefectError):
        deliver(Role.INSTITUTION, session, VALID[Role.INSTITUTION][1])


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
