"""Race many processes for the budget of one ledger, and kill some: is any answer uncharged?

    python -m fedkd.simulations.checks.ledger_race [--processes 8] [--units 1000] [--kills 100]
        [--price RHO] [--json FILE]

First, processes that ask without end are killed at random moments, one after the other, and each
is replaced while kills are left. Then as many processes race for the units that a policy still
grants, in the same ledger: samples, or with a price the privacy budget for as many. A process is
undercharged where it was answered more than the ledger charges it. A kill is no power failure, for
which SQLite's durability is relied on.
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

TIMEOUT = 60.0
"""Seconds that a process may take for one answer, or for the refusal at the end."""
MAX_KILL_DELAY = 0.02
"""Most seconds between a victim's first answer and its kill."""
MAX_ANSWER_SECONDS = 0.002
"""Most seconds between an answer and the next query."""

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["fedkd.client.ledger.ledger"])


IMAGES = (b"an image",)
"""The private data whose budget is raced for."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a race."""

    granted: int
    """Units charged in the race."""
    answered: int
    """Units of these that a process received."""
    kills: int
    short: int
    """Processes that received more units than the ledger charges them."""
    unanswered: int
    """Units charged to processes that were killed before they were answered."""
    rows: int
    """Rows of the ledger, whose hash chain was verified."""
    seconds: float


class _Charger:
    """A process that charges the ledger until refused, and reports each answer by one byte."""

    def __init__(
        self, path: Path, name: str, policy: Policy, durable: bool, price: PrivacyCost
    ) -> None:
        self.name, self.answers = name, 0
        self._receiver, sender = _processes.Pipe(duplex=False)
        self.process: ForkServerProcess = _processes.Process(
            target=_charge_until_refused,
            args=(path, name, policy, durable, price, sender),
            daemon=True,
        )
        self.process.start()
        sender.close()

    def listen(self, seconds: float) -> bool:
        """Whether it reported answers within this time."""
        if not self._receiver.poll(seconds):
            return False
        received = len(os.read(self._receiver.fileno(), 65536))
        self.answers += received
        return received > 0

    def end(self, kill: bool) -> None:
        """Kill it, or wait for it; then read its last reports."""
        if kill:
            self.process.kill()
        while self.listen(TIMEOUT):
            pass
        self.process.join(TIMEOUT)
        self._receiver.close()
        if not kill and self.process.exitcode != 0:
            raise RuntimeError(f"{self.name} was refused for another reason than the budget")


def _fixed_limit(cap: int, _: Spending) -> int:
    """A limit that does not depend on what was spent."""
    return cap


def _charge_until_refused(
    path: Path, name: str, policy: Policy, durable: bool, price: PrivacyCost, sender: Connection
) -> None:
    torch.set_num_threads(1)
    rng = random.SystemRandom()
    with closing(Ledger(path, durable=durable)) as ledger:
        data_set = ledger.dataset_accounts.register(IMAGES)
        while True:
            pixels = torch.frombuffer(bytearray(os.urandom(64)), dtype=torch.uint8)
            price_of_query = replace(price, keys=(os.urandom(16),)) if price.per_answer else None
            ask = Ask(pixels.view(1, 1, 8, 8))
            refusal = ledger.charge(
                ask, policy, name, privacy_cost=price_of_query, data_set=data_set
            )
            if refusal is not None:
                sys.exit(0 if refusal.reason is Reason.SPENT else 1)
            os.write(sender.fileno(), b".")
            # As a teacher would take. SQLite's lock is not fair: a process that asks for it again
            # at once gets it again, and others wait for long.
            time.sleep(rng.uniform(0.0, MAX_ANSWER_SECONDS))


def race(
    path: Path,
    processes: int = 8,
    units: int = 1000,
    kills: int = 0,
    *,
    durable: bool = True,
    price: int = 0,
    on_progress: Callable[[int], None] = lambda count: None,
) -> Outcome:
    """Kill processes that charge the ledger at ``path``, then have others race for its units.

    Args:
        path: of the ledger.
        processes: at a time.
        units: to race for.
        kills: at random moments, before the race.
        durable: as `Ledger` has it.
        price: micro-rho of a unit; 0 races for samples.
        on_progress: called with the number of further kills and units.

    Raises:
        DataError: the hash chain does not verify.
    """
    began = time.monotonic()
    with closing(Ledger(path)) as ledger:
        fixed_price, data_set = (
            PrivacyCost((), price, partial(_fixed_limit, 2**62)),
            ledger.dataset_accounts.register(IMAGES),
        )
        killed = list(_kill_chargers(path, processes, kills, durable, fixed_price, on_progress))
        samples_before = ledger.totals.samples
        # Half a unit is left over at the end.
        cap = ledger.dataset_accounts.spending(data_set).micro_rho + price * units + price // 2
        policy = Policy() if price else Policy(samples=samples_before + units)
        fixed_price = replace(fixed_price, limit=partial(_fixed_limit, cap))
        racers = [
            _Charger(path, f"racer-{i}:1", policy, durable, fixed_price) for i in range(processes)
        ]
        while any(racer.process.is_alive() for racer in racers):
            received = sum(racer.answers for racer in racers)
            for racer in racers:
                racer.listen(0.02)
            on_progress(sum(racer.answers for racer in racers) - received)
        for racer in racers:
            racer.end(kill=False)
        charged = Counter[str]()
        for entry in ledger.entries():
            charged[entry.server] += entry.micro_rho // price if price else entry.cost
        balance = {
            charger.name: charged[charger.name] - charger.answers for charger in killed + racers
        }
        return Outcome(
            ledger.totals.samples - samples_before,
            sum(racer.answers for racer in racers),
            len(killed),
            sum(units < 0 for units in balance.values()),
            sum(units for units in balance.values() if units > 0),
            ledger.verify().sequence,
            round(time.monotonic() - began, 2),
        )


def _kill_chargers(
    path: Path,
    processes: int,
    kills: int,
    durable: bool,
    price: PrivacyCost,
    on_progress: Callable[[int], None],
) -> Iterator[_Charger]:
    """Start processes that charge the ledger, kill them one by one, and yield them."""
    rng = random.SystemRandom()
    names = iter(range(kills))
    chargers: list[_Charger] = []
    for _ in range(kills):
        while len(chargers) < processes and (number := next(names, None)) is not None:
            chargers.append(_Charger(path, f"victim-{number}:1", Policy(), durable, price))
        victim = chargers.pop(rng.randrange(len(chargers)))
        if not victim.answers and not victim.listen(TIMEOUT):
            raise RuntimeError(f"{victim.name} was not answered in {TIMEOUT:g} s")
        time.sleep(rng.uniform(0.0, MAX_KILL_DELAY))
        victim.end(kill=True)
        on_progress(1)
        yield victim


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit status: 0 if the ledger is right, 1 if not, 2 on a `FedkdError`."""
    parser = argparse.ArgumentParser(
        prog="python -m fedkd.simulations.checks.ledger_race", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--processes", type=int, default=8, help="at a time [8]")
    parser.add_argument("--units", type=int, default=1000, help="samples to race for [1000]")
    parser.add_argument("--kills", type=int, default=100, help="at random moments [100]")
    parser.add_argument("--price", type=int, default=0, help="of a sample, in micro-rho [0]")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args(arguments)
    if min(options.processes, options.units) < 1 or min(options.kills, options.price) < 0:
        parser.error(
            "expected at least one process and one unit, no fewer than 0 kills, no price below 0"
        )
    try:
        with tempfile.TemporaryDirectory(prefix="fedkd-ledger-") as folder, Progress() as bars:
            bar = bars.add_task("kills and units", total=options.kills + options.units)
            path = Path(folder, "ledger.sqlite")
            outcome = race(
                path,
                options.processes,
                options.units,
                options.kills,
                price=options.price,
                on_progress=lambda count: bars.advance(bar, count),
            )
    except FedkdError as error:
        print(f"fedkd: {error}", file=sys.stderr)
        return 2
    print(
        f"granted {outcome.granted:,} of {options.units:,} units to {options.processes} processes; "
        f"{outcome.kills} kills; {outcome.short} processes undercharged; "
        f"{outcome.unanswered} units charged "
        f"and not answered; a chain of {outcome.rows:,} rows verified; {outcome.seconds} s"
    )
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(outcome), indent=2) + "\n")
    return int(outcome.short > 0 or outcome.granted != options.units)


if __name__ == "__main__":
    sys.exit(main())
