"""Whether an owner's books hold: many processes charge one ledger, and some are killed as they do.

    python -m fedkd.simulations.checks.ledger_race [--processes 8] [--units 1000] [--kills 100] [--price RHO]
                                      [--json FILE]

First, processes that ask without end are killed at random moments, one after the other, and each
is replaced while kills are left. Then as many race for the units that a policy still grants, in
the same books: samples, or with a price the privacy that pays for so many. A book is short where
somebody was answered more than is charged to him. A kill is no loss of power: what the disk does
then is SQLite's to promise and cannot be tried here.
"""

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch
from rich.progress import Progress

from fedkd.client.ledger.answer_cache import PrivacyCost
from fedkd.client.ledger.ledger import Ledger
from fedkd.errors import FedkdError
from fedkd.privacy import Policy, Spending
from fedkd.protocol import Ask, Reason

WAITING = 60.0
"""Seconds that a process may take to be answered once, or to find that nothing is left."""
LONGEST = 0.02
"""Seconds between a victim's first answer and its end, at most."""
ANSWERING = 0.002
"""Seconds between an answer and the next question, at most."""

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["fedkd.client.ledger.ledger"])


IMAGES = (b"an image",)
"""Whose privacy is raced for."""


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    granted: int
    """Units charged in the race."""
    answered: int
    """Of these, units of which a process was told."""
    kills: int
    short: int
    """Processes that were answered more than the books charge them."""
    unanswered: int
    """Units charged to processes that were killed before they were answered."""
    rows: int
    """In the log, whose chain was recomputed."""
    seconds: float


class _Asker:
    """A process that asks until it is refused, and tells of every answer by one byte."""

    def __init__(
        self, path: Path, name: str, policy: Policy, durable: bool, price: PrivacyCost
    ) -> None:
        self.name, self.answers = name, 0
        self._hears, tells = _processes.Pipe(duplex=False)
        self.process: ForkServerProcess = _processes.Process(
            target=_ask, args=(path, name, policy, durable, price, tells), daemon=True
        )
        self.process.start()
        tells.close()

    def listen(self, seconds: float) -> bool:
        """Whether it was answered in this time, or had been before its end was seen."""
        if not self._hears.poll(seconds):
            return False
        heard = len(os.read(self._hears.fileno(), 65536))
        self.answers += heard
        return heard > 0

    def end(self, kill: bool) -> None:
        """Kill it, or wait for it; then hear it out."""
        if kill:
            self.process.kill()
        while self.listen(WAITING):
            pass
        self.process.join(WAITING)
        self._hears.close()
        if not kill and self.process.exitcode != 0:
            raise RuntimeError(f"{self.name} was refused for another reason than its budget")


def _within(cap: int, _: Spending) -> int:
    """A limit that is what it is, whatever was spent on what."""
    return cap


def _ask(
    path: Path, name: str, policy: Policy, durable: bool, price: PrivacyCost, tells: Connection
) -> None:
    torch.set_num_threads(1)
    chance = random.SystemRandom()
    with closing(Ledger(path, durable=durable)) as ledger:
        data_set = ledger.data_sets.enrol(IMAGES)
        while True:
            pixels = torch.frombuffer(bytearray(os.urandom(64)), dtype=torch.uint8)
            paid = replace(price, rows=(os.urandom(16),)) if price.each else None
            ask = Ask(pixels.view(1, 1, 8, 8))
            refusal = ledger.charge(ask, policy, name, price=paid, data_set=data_set)
            if refusal is not None:
                sys.exit(0 if refusal.reason is Reason.SPENT else 1)
            os.write(tells.fileno(), b".")
            # A teacher takes his time too. SQLite's lock is not fair: whoever asks for it again at
            # once has it again, and a newcomer waits for long.
            time.sleep(chance.uniform(0.0, ANSWERING))


def race(
    path: Path,
    processes: int = 8,
    units: int = 1000,
    kills: int = 0,
    *,
    durable: bool = True,
    price: int = 0,
    done: Callable[[int], None] = lambda count: None,
) -> Outcome:
    """Kill processes that charge the ledger at ``path``, then have others race for its units.

    Args:
        path: of the ledger.
        processes: at a time.
        units: that the race is for.
        kills: at random moments, before the race.
        durable: as `Ledger` has it.
        price: micro-rho of a unit; 0 has them race for samples.
        done: is told of kills and units as they are done.

    Raises:
        DataError: the books do not hold together.
    """
    began = time.monotonic()
    with closing(Ledger(path)) as ledger:
        own, data_set = (
            PrivacyCost((), price, partial(_within, 2**62)),
            ledger.data_sets.enrol(IMAGES),
        )
        killed = list(_killed(path, processes, kills, durable, own, done))
        before = ledger.spent.samples
        # Change that pays for no unit is left at the end.
        cap = ledger.data_sets.spending(data_set).micro_rho + price * units + price // 2
        policy = Policy() if price else Policy(samples=before + units)
        own = replace(own, limit=partial(_within, cap))
        racers = [_Asker(path, f"racer-{i}:1", policy, durable, own) for i in range(processes)]
        while any(racer.process.is_alive() for racer in racers):
            heard = sum(racer.answers for racer in racers)
            for racer in racers:
                racer.listen(0.02)
            done(sum(racer.answers for racer in racers) - heard)
        for racer in racers:
            racer.end(kill=False)
        charged = Counter[str]()
        for entry in ledger.entries():
            charged[entry.server] += entry.micro_rho // price if price else entry.cost
        over = {asker.name: charged[asker.name] - asker.answers for asker in killed + racers}
        return Outcome(
            ledger.spent.samples - before,
            sum(racer.answers for racer in racers),
            len(killed),
            sum(units < 0 for units in over.values()),
            sum(units for units in over.values() if units > 0),
            ledger.verify().sequence,
            round(time.monotonic() - began, 2),
        )


def _killed(
    path: Path,
    processes: int,
    kills: int,
    durable: bool,
    price: PrivacyCost,
    done: Callable[[int], None],
) -> Iterator[_Asker]:
    """Processes that charged, and were killed at it."""
    chance = random.SystemRandom()
    names = iter(range(kills))
    askers: list[_Asker] = []
    for _ in range(kills):
        while len(askers) < processes and (number := next(names, None)) is not None:
            askers.append(_Asker(path, f"victim-{number}:1", Policy(), durable, price))
        victim = askers.pop(chance.randrange(len(askers)))
        if not victim.answers and not victim.listen(WAITING):
            raise RuntimeError(f"{victim.name} was not answered in {WAITING:g} s")
        time.sleep(chance.uniform(0.0, LONGEST))
        victim.end(kill=True)
        done(1)
        yield victim


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit status: 0 if the books held, 1 if not, 2 on an error of ours."""
    parser = argparse.ArgumentParser(
        "fedkd.simulations.checks.ledger_race", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--processes", type=int, default=8, help="at a time [8]")
    parser.add_argument("--units", type=int, default=1000, help="samples to race for [1000]")
    parser.add_argument("--kills", type=int, default=100, help="at random moments [100]")
    parser.add_argument("--price", type=int, default=0, help="of a sample, in micro-rho [0]")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(arguments)
    if min(given.processes, given.units) < 1 or min(given.kills, given.price) < 0:
        parser.error(
            "expected at least one process and one unit, no fewer than 0 kills, no price below 0"
        )
    try:
        with tempfile.TemporaryDirectory(prefix="fedkd-books-") as folder, Progress() as bars:
            bar = bars.add_task("kills and units", total=given.kills + given.units)
            path = Path(folder, "ledger.sqlite")
            outcome = race(
                path,
                given.processes,
                given.units,
                given.kills,
                price=given.price,
                done=lambda count: bars.advance(bar, count),
            )
    except FedkdError as error:
        print(f"fedkd: {error}", file=sys.stderr)
        return 2
    print(
        f"granted {outcome.granted:,} of {given.units:,} units to {given.processes} processes; "
        f"{outcome.kills} kills; {outcome.short} short books; {outcome.unanswered} units charged "
        f"and not answered; a chain of {outcome.rows:,} rows verified; {outcome.seconds} s"
    )
    if given.json is not None:
        given.json.write_text(json.dumps(asdict(outcome), indent=2) + "\n")
    return int(outcome.short > 0 or outcome.granted != given.units)


if __name__ == "__main__":
    sys.exit(main())
