"""The hourly cap is one of real hours, however the clock of the machine jumps."""

from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from fedkd.client.ledger.ledger import Ledger
from fedkd.privacy import Policy
from fedkd.protocol import Ask, Reason

HOURLY = Policy(samples_per_hour=4)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
YEAR = timedelta(days=365)


@dataclass
class Machine:
    """Its clock may be wrong by some time; its monotonic one never is."""

    path: Path
    seconds: float = 0.0
    error: timedelta = timedelta()
    number: int = 0

    def ledger(self) -> Ledger:
        return Ledger(
            self.path,
            durable=False,
            clock=lambda: NOON + self.error + timedelta(seconds=self.seconds),
            monotonic=lambda: self.seconds,
        )

    def ask(self, ledger: Ledger) -> bool:
        """Whether two new samples are answered."""
        self.number += 1
        images = torch.full((2, 1, 2, 2), self.number, dtype=torch.uint8)
        refused = ledger.charge(Ask(images), HOURLY)
        assert refused is None or refused.reason is Reason.RATE
        return refused is None

    def wait(self, minutes: float) -> None:
        self.seconds += 60 * minutes


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "ledger.sqlite")


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("ahead", [YEAR, timedelta(hours=5), timedelta(minutes=90)])
def test_a_clock_that_was_ahead_refuses_for_an_hour(
    machine: Machine, restarts: bool, ahead: timedelta
) -> None:
    machine.error = ahead
    ledger = machine.ledger()
    assert [machine.ask(ledger) for _ in range(3)] == [True, True, False]
    machine.error = timedelta()
    for _ in range(6):  # an hour, in which nothing is given away
        if restarts:
            ledger.close()
            ledger = machine.ledger()
        assert not machine.ask(ledger)
        machine.wait(9.9)
    machine.wait(2)
    if restarts:
        ledger.close()
        ledger = machine.ledger()
    assert [machine.ask(ledger) for _ in range(3)] == [True, True, False]
    ledger.verify()
    ledger.close()


@pytest.mark.parametrize("back", [YEAR, timedelta(hours=5), timedelta(minutes=30)])
def test_a_clock_that_is_set_back_gives_nothing_away(machine: Machine, back: timedelta) -> None:
    with closing(machine.ledger()) as ledger:
        assert [machine.ask(ledger) for _ in range(2)] == [True, True]
        for error in (-back, timedelta(), -back):
            machine.error = error
            machine.wait(1)
            assert not machine.ask(ledger)
            with closing(machine.ledger()) as restarted:
                assert not machine.ask(restarted)
        machine.error = -back
        machine.wait(60)
        assert machine.ask(ledger), "an hour has passed, whatever the clock says"


def test_a_clock_that_is_set_ahead_frees_nothing_in_the_process(machine: Machine) -> None:
    with closing(machine.ledger()) as ledger:
        assert [machine.ask(ledger) for _ in range(2)] == [True, True]
        for hours in (2, 4, 6):
            machine.error = timedelta(hours=hours)
            machine.wait(5)
            assert not machine.ask(ledger)
        machine.wait(50)
        assert machine.ask(ledger)


def test_what_others_charge_counts_too(machine: Machine) -> None:
    with closing(machine.ledger()) as one, closing(machine.ledger()) as other:
        assert machine.ask(one)
        machine.wait(30)
        assert machine.ask(other)
        assert not machine.ask(one)
        machine.wait(31)
        assert machine.ask(one)
        assert not machine.ask(other)
