"""At the start of a run, and at admission, whoever does not fit is turned away and nobody else."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil, log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.client.sessions.agent import Agent, StopReason
from fedkd.errors import QuorumLost, SettingsError
from fedkd.experiment import Expect, Experiment, parse_experiment
from fedkd.process.memory_estimate import check_memory
from fedkd.protocol import Ask, Card, Column, Number, Signal
from fedkd.server.card_expectation import expectation_failure
from fedkd.server.hub.hub import Hub
from fedkd.server.run.quorum import Quorum
from fedkd.server.start_selection import (
    _largest_that_fits,
    await_institutions,
    misfits_at_start,
    sample_misfits,
)
from tests.support.hub_clients import (
    IMAGES,
    QUICK,
    SOON,
    TOKEN,
    card,
    honest_answer,
    names,
    wait_until,
)

LONG = 120.0
"""Seconds that nobody is waited for here."""


def experiment(**settings: object) -> Experiment:
    small = {"budget": 16, "batch": 4}
    return parse_experiment(
        {"name": "small", "student": {"model": "mlp"}, "questions": small, **settings}
    )


class Served:
    """Agents in threads of their own, and what they were told at their end."""

    def __init__(self, hub: Hub) -> None:
        self.hub, self.agents, self.threads = hub, dict[str, Agent](), list[threading.Thread]()
        self.reasons: dict[str, str] = {}

    def start(self, *cards: Card) -> None:
        for each in cards:
            agent = Agent(self.hub.address, TOKEN, each, honest_answer, reconnect=QUICK)
            self.agents[each.name] = agent
            self.threads.append(threading.Thread(target=self._serve, args=(each.name, agent)))
            self.threads[-1].start()

    def _serve(self, name: str, agent: Agent) -> None:
        self.reasons[name] = agent.serve()

    def close(self) -> None:
        for agent in self.agents.values():
            agent.close()
        for thread in self.threads:
            thread.join(SOON)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    ("expect", "fits"),
    [
        ({}, True),
        ({"classes": 5, "shape": [3, 2, 2]}, True),
        ({"classes": ["0", "1", "2", "3", "4", "5"]}, True),
        ({"classes": 6}, False),
        ({"classes": ["a", "b", "c", "d", "e"]}, False),
        ({"shape": [1, 2, 2]}, False),
    ],
)
def test_a_card_is_held_against_what_is_expected(expect: dict[str, object], fits: bool) -> None:
    why = expectation_failure(experiment(expect=expect).expect, card("north"))
    assert (why is None) == fits
    assert why is None or ("expect." in why and "north" in why and "\n" not in why)


@pytest.mark.parametrize("classes", [0, True, [], ["a", "a"], [1, 2], "ten"])
def test_an_expectation_that_cannot_be_is_refused(classes: object) -> None:
    with pytest.raises(SettingsError, match=r"expect\.classes"):
        experiment(expect={"classes": classes})


def test_whoever_is_not_as_expected_is_refused_and_may_come_with_another_card() -> None:
    expect = Expect(shape=(3, 2, 2))
    with Hub(TOKEN, misfit=lambda own: expectation_failure(expect, own)) as hub:
        served = Served(hub)
        served.start(replace(card("north"), shape=(1, 8, 8)))
        served.threads[0].join(SOON)
        assert served.reasons["north"].startswith("north reads images of (1, 8, 8), this run")
        assert served.agents["north"].stop_reason is StopReason.REFUSED
        assert hub.turned_away == served.reasons
        served.start(card("north"))
        hub.wait_for(1, SOON)
        assert hub.turned_away == {}
        assert hub.ask({"north": Ask(IMAGES)}, SOON)[0].keys() == {"north"}
        served.close()


def test_a_run_begins_with_those_that_fit_and_waits_for_no_other() -> None:
    settings = experiment()
    odd = replace(card("odd"), shape=(1, 8, 8))
    mute = replace(card("mute"), signals=frozenset())
    with Hub(TOKEN) as hub:
        served = Served(hub)
        served.start(card("north"), card("south"), card("west"), odd, mute)
        wait_until(lambda: len(hub.cards) == 5)
        began = time.monotonic()
        there = await_institutions(
            hub, Quorum(5, 2, LONG), misfits=lambda cards: misfits_at_start(settings, cards)
        )
        assert time.monotonic() - began < LONG / 2
        assert [each.name for each in there] == ["north", "south", "west"]
        for thread in served.threads[3:]:
            thread.join(SOON)
        assert "most institutions of (3, 2, 2)" in served.reasons["odd"]
        assert "needs logits, which mute does not release" in served.reasons["mute"]
        assert {served.agents[name].stop_reason for name in ("odd", "mute")} == {StopReason.REFUSED}
        assert hub.ask(dict.fromkeys(names(hub), Ask(IMAGES)), SOON)[1] == {}

        served.start(odd)  # the same card again is refused at once
        served.threads[-1].join(SOON)
        assert "most institutions of" in served.reasons["odd"]
        served.start(card("odd"))  # another teacher under that name takes part
        wait_until(lambda: "odd" in names(hub))
        assert hub.ask({"odd": Ask(IMAGES)}, SOON)[0].keys() == {"odd"}
        served.close()


def test_too_few_that_fit_are_waited_for_and_the_error_says_who_did_not() -> None:
    settings = experiment()
    with Hub(TOKEN) as hub:
        served = Served(hub)
        served.start(card("north"), card("south"), replace(card("odd"), shape=(1, 8, 8)))
        wait_until(lambda: len(hub.cards) == 3)
        with pytest.raises(QuorumLost, match=r"2 institutions .*turned away: odd reads images"):
            await_institutions(
                hub, Quorum(3, 3, 2.0), misfits=lambda cards: misfits_at_start(settings, cards)
            )
        served.close()


def test_whoever_makes_a_run_too_large_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedkd.process.memory_estimate.machine_memory", lambda: 10**8)
    check_memory({"nothing": 1})
    large = Card("large", 9_000, (3, 2, 2), frozenset({Signal.LOGITS}))
    found = misfits_at_start(experiment(), [large, *map(card, ("north", "south"))])
    assert found.keys() == {"large"}
    assert "this machine has 100 MB" in found["large"]


def test_where_no_shape_has_a_majority_the_operator_is_asked() -> None:
    other = replace(card("odd"), shape=(1, 8, 8))
    with pytest.raises(
        SettingsError, match=r"1 of \(1, 8, 8\); 1 of \(3, 2, 2\).*\[expect\] shape"
    ):
        misfits_at_start(experiment(), [card("north"), other])
    assert sample_misfits([card("north"), card("south"), other]).keys() == {"odd"}


HONEST = ("east", "north", "south", "west")
COLUMNS = (Column("age", 0.0, 99.0), Column("ward", high=2.0, levels=("a", "b", "c")))
COST = Number("cost", "EUR", 0.0, 100.0)


def patients(name: str, columns: tuple[Column, ...] = COLUMNS, *numbers: Number) -> Card:
    told = numbers or (COST,)
    logits = frozenset({Signal.LOGITS})
    return Card(name, len(told), (1, 1, 2), logits, columns=columns, numbers=told)


@pytest.mark.parametrize(
    ("honest", "odd", "says"),
    [
        (
            patients,
            patients("aaa", (Column("age", 0.0, 1e6), COLUMNS[1])),
            "differ in column 0",
        ),
        (
            patients,
            patients("aaa", COLUMNS, replace(COST, unit="cent")),
            "cost another unit or range",
        ),
        (
            card,
            replace(card("aaa"), numbers=tuple(Number(str(place)) for place in range(5))),
            "predicts numbers",
        ),
    ],
    ids=["columns", "range", "kind"],
)
def test_one_institution_does_not_turn_all_others_away(
    honest: Callable[[str], Card], odd: Card, says: str
) -> None:
    found = misfits_at_start(experiment(), [odd, *map(honest, HONEST)])
    assert found.keys() == {"aaa"}
    assert says in found["aaa"]
    assert "\n" not in found["aaa"]


def test_where_no_columns_or_kind_have_a_majority_the_operator_is_asked() -> None:
    other = replace(card("odd"), numbers=tuple(Number(str(place)) for place in range(5)))
    with pytest.raises(SettingsError, match=r"odd predicts numbers and north classes.*agree"):
        misfits_at_start(experiment(), [card("north"), other])
    with pytest.raises(SettingsError, match=r"south and north differ in column 1.*agree"):
        misfits_at_start(experiment(), [patients("north"), patients("south", COLUMNS[:1] * 2)])


def test_two_who_make_up_a_number_do_not_end_the_run() -> None:
    liars = [
        patients(name, COLUMNS, COST, Number("made up", high=high))
        for name, high in (("aaa", 1.0), ("bbb", 2.0))
    ]
    found = misfits_at_start(experiment(), [*liars, *map(patients, HONEST)])
    assert found.keys() == {"aaa", "bbb"}
    with pytest.raises(SettingsError, match=r"no institution fits this run: .* gives made up"):
        misfits_at_start(experiment(), liars)


def test_a_number_that_the_first_does_not_know_is_compared_too() -> None:
    days = [Number("days", high=high) for high in (9.0, 9.0, 99.0)]
    cards = [patients("aaa"), *map(patients, "bcd", [COLUMNS] * 3, days)]
    assert misfits_at_start(experiment(), cards).keys() == {"d"}
    assert misfits_at_start(experiment(), cards[:3]) == {}


def test_who_returns_with_one_bad_card_after_another_does_not_hold_up_the_start() -> None:
    rounds = 0
    with Hub(TOKEN) as hub:
        served = Served(hub)
        served.start(card("north"), card("liar-0"))
        wait_until(lambda: len(hub.cards) == 2)

        def misfits(cards: Sequence[Card]) -> dict[str, str]:
            nonlocal rounds
            rounds += 1
            assert rounds < 50, "no end is in sight"
            # While these are judged, the next bad card comes.
            served.start(card(f"liar-{rounds}"))
            wait_until(lambda: f"liar-{rounds}" in names(hub))
            return {each.name: f"{each.name} lies" for each in cards if each.name != "north"}

        there = await_institutions(hub, Quorum(2, 1, 0.3), misfits=misfits)
        assert [each.name for each in there] == ["north"]
        assert hub.turned_away.keys() >= {"liar-0"}
        served.close()


def test_who_does_not_fit_when_time_is_up_does_not_make_a_quorum() -> None:
    with Hub(TOKEN) as hub:
        served = Served(hub)
        served.start(card("north"), card("liar"))
        wait_until(lambda: len(hub.cards) == 2)
        with pytest.raises(QuorumLost, match=r"1 institution came .*turned away: it lies"):
            await_institutions(hub, Quorum(3, 2, 0.1), misfits=lambda cards: {"liar": "it lies"})
        served.close()


def test_where_nobody_fits_the_run_ends_with_the_reason() -> None:
    mute = [replace(card(name), signals=frozenset()) for name in ("north", "south")]
    with pytest.raises(SettingsError, match=r"no institution fits this run: .* needs logits"):
        misfits_at_start(experiment(), mute)


@given(st.integers(1, 40), st.sets(st.integers(0, 39), max_size=4))
def test_misfits_are_found_in_few_trials(count: int, bad: set[int]) -> None:
    cards = [card(f"n{number:02d}") for number in range(count)]
    wrong = {f"n{number:02d}" for number in bad if number < count}
    trials = 0

    def failure(some: Sequence[Card]) -> str | None:
        nonlocal trials
        trials += 1
        found = sorted({each.name for each in some} & wrong)
        return f"not with {found[0]}" if found else None

    misfits: dict[str, str] = {}
    fit = _largest_that_fits([], cards, failure, misfits)
    assert misfits == {name: f"not with {name}" for name in wrong}
    assert [each.name for each in fit] == [c.name for c in cards if c.name not in wrong]
    assert trials <= 1 + 2 * len(wrong) * (1 + ceil(log2(count)))
