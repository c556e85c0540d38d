"""Who takes part at the start of a run: institutions are awaited, whose cards do not fit go.

A card may be out of proportion, of other samples than the others', without the signals that the
method needs, or such that answers cannot be fused. That must not end the run for the others, nor
turn them away: most institutions decide what a run's teachers read and predict.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter

from fedkd.core.earlier_student import TeacherCards
from fedkd.errors import FedkdError, NeedsError, SettingsError
from fedkd.experiment import Experiment
from fedkd.loop import Distillation
from fedkd.methods import make
from fedkd.process.logs import log_event
from fedkd.protocol import Card, class_names_of
from fedkd.protocol.label_spaces import sample_mismatch
from fedkd.server.coordinator import StudentFactory, ingredients
from fedkd.server.fusion_dry_run import fusion_failure
from fedkd.server.hub.hub import Hub
from fedkd.server.hub.quorum_error import quorum_lost
from fedkd.server.run.quorum import Quorum
from fedkd.wire import one_line

Misfits = dict[str, str]
"""Name of an institution -> why it cannot take part, in one line."""
Failure = Callable[[Sequence[Card]], str | None]
"""Why no run can begin with these institutions; None if one can."""

log = logging.getLogger(__name__)


def await_institutions(
    hub: Hub,
    quorum: Quorum,
    progress: Callable[[int], None] = lambda count: None,
    misfits: Callable[[Sequence[Card]], Mapping[str, str]] = lambda cards: {},
) -> tuple[Card, ...]:
    """Cards of the institutions that have connected, once they are enough.

    Args:
        hub: to which they connect.
        quorum: how many are waited for, and how long.
        progress: called with the number of connected institutions, whenever one connects.
        misfits: returns who of these cannot take part, with reasons; they are turned away, and not
            waited for: the run begins with the others, once these are enough. Whoever comes with
            a new card after that is waited for until time is up, and no longer.

    Raises:
        QuorumLost: fewer than a quorum came.
    """
    deadline = time.monotonic() + quorum.timeout
    count, seen = quorum.expected, set[str]()
    log_event(log, "waiting", address=hub.address, institutions=count, seconds=quorum.timeout)

    def present() -> tuple[Card, ...]:
        cards = hub.cards
        for name in sorted({card.name for card in cards} - seen):
            seen.add(name)
            log_event(log, "connected", name=name, institutions=f"{len(seen)} of {count}")
            progress(len(seen))
        return cards

    while True:
        left = max(0.0, deadline - time.monotonic())
        cards = replace(quorum, timeout=left).wait_for(
            present, turned_away=lambda: len(hub.turned_away)
        )
        reasons = misfits(cards) if len(cards) >= quorum.minimum else {}
        for card in cards:
            if why := reasons.get(card.name):
                hub.turn_away(card, why)
        cards = tuple(card for card in cards if card.name not in reasons)
        if not reasons or time.monotonic() > deadline:
            break
    if len(cards) < quorum.minimum:
        raise quorum_lost(cards, quorum.minimum, quorum.timeout, hub.turned_away)
    if len(cards) < count:
        log_event(log, "starting without all", institutions=f"{len(cards)} of {count}")
    return cards


def misfits_at_start(
    experiment: Experiment, cards: Sequence[Card], build: StudentFactory | None = None
) -> Misfits:
    """The institutions without which the run can begin; none if it can with all of them.

    Args:
        experiment: resolved.
        cards: of those that are connected.
        build: makes the student, where it is not the one that the experiment names.

    Raises:
        SettingsError: no institution fits, or shapes, columns or kinds differ and none has a
            majority.
    """

    def failure(some: Sequence[Card]) -> str | None:
        return start_failure(experiment, some, build)

    misfits = sample_misfits(cards)
    if not cards or (not misfits and failure(cards) is None):
        return {}
    misfits |= _misfits_by_needs(experiment, cards)
    rest = [card for card in cards if card.name not in misfits]
    alike = Counter(class_names_of(card) for card in rest)
    # Who differs from most and who makes a run large is tried last, and found to be the one.
    rest.sort(key=lambda card: (-alike[class_names_of(card)], card.classes, card.name))
    if not _largest_that_fits([], rest, failure, misfits):
        raise SettingsError(f"no institution fits this run: {next(iter(misfits.values()))}")
    return misfits


def start_failure(
    experiment: Experiment, cards: Sequence[Card], build: StudentFactory | None = None
) -> str | None:
    """Why no run can begin with exactly these institutions, in one line; None if one can.

    All that a run builds before its first question is built, and one answer of zeros is fused.
    """
    try:
        parts = ingredients(experiment, cards, build=build)
        teachers = TeacherCards(parts.earlier, cards)
        run = Distillation(
            *(parts.student, parts.method, teachers, parts.plan, parts.priors, parts.seed),
            compute=parts.compute,
            public=parts.public,
            earlier=parts.earlier,
        )
    except FedkdError as error:
        return str(error)
    except Exception as error:  # whatever a card makes a network or a method raise
        return one_line(str(error)) or type(error).__name__
    why = fusion_failure(run, teachers)
    return why and f"answers of these institutions cannot be fused: {why}"


def sample_misfits(cards: Sequence[Card]) -> Misfits:
    """Those whose teachers read other samples than most institutions', or predict other things.

    Raises:
        SettingsError: no shape has more institutions than each other, or no columns, or no kind.
    """
    misfits = _shape_misfits(cards)
    for find in (
        lambda rest: _unlike_most(rest, attrgetter("columns")),
        lambda rest: _unlike_most(rest, attrgetter("predicts")),
        _number_misfits,
    ):
        misfits |= find([card for card in cards if card.name not in misfits])
    return misfits


def _shape_misfits(cards: Sequence[Card]) -> Misfits:
    """Those whose images have another shape than most institutions'.

    Raises:
        SettingsError: no shape has more institutions than each other.
    """
    shapes = Counter(card.shape for card in cards).most_common()
    if len(shapes) > 1 and shapes[0][1] == shapes[1][1]:
        kinds = "; ".join(f"{count} of {shape}" for shape, count in sorted(shapes))
        raise SettingsError(
            f"institutions read images of different shapes ({kinds}); say which with "
            "[expect] shape = [C, H, W]"
        )
    return {
        card.name: (
            f"{card.name} reads images of {card.shape}, most institutions of {shapes[0][0]}; "
            "bring a teacher of that shape"
        )
        for card in cards
        if card.shape != shapes[0][0]
    }


def _unlike_most(cards: Sequence[Card], trait: Callable[[Card], Hashable]) -> Misfits:
    """Those of one shape whose columns or kind, the trait, is another than most institutions'.

    Raises:
        SettingsError: none has more institutions than each other.
    """
    sides = Counter(map(trait, cards)).most_common(2)
    if len(sides) < 2:
        return {}
    one, other = (next(card for card in cards if trait(card) == value) for value, _ in sides)
    if sides[0][1] == sides[1][1]:
        raise SettingsError(
            f"{sample_mismatch(other, one)}; as many institutions agree with the one as with the "
            "other, so begin with those that agree"
        )
    return {
        card.name: f"{sample_mismatch(card, one)}; most institutions agree with {one.name}"
        for card in cards
        if trait(card) != trait(one)
    }


def _number_misfits(cards: Sequence[Card]) -> Misfits:
    """Those who give a number another unit or range than most who know it.

    Where none has a majority, all who know it: two who make up a number must not end the run.
    """
    told = {card.name: {n.name: (n.unit, n.low, n.high) for n in card.numbers} for card in cards}
    misfits = Misfits()
    while (number := _disputed_number(told.values())) is not None:
        ranges = {name: own[number] for name, own in told.items() if number in own}
        (most, count), (_, next_count) = Counter(ranges.values()).most_common(2)
        for name in (n for n, own in ranges.items() if own != most or count == next_count):
            misfits[name] = (
                f"{name} gives {number} another unit or range than other institutions; give all "
                "the same schema"
            )
            del told[name]
    return misfits


def _disputed_number(told: Collection[Mapping[str, Hashable]]) -> str | None:
    """Of the numbers with several ranges the one that most institutions know; None: none is."""
    ranges = Counter(number for number, _ in {item for own in told for item in own.items()})
    known = Counter(number for own in told for number in own if ranges[number] > 1)
    return max(known, key=known.__getitem__, default=None)


def _misfits_by_needs(experiment: Experiment, cards: Sequence[Card]) -> Misfits:
    """Those that do not release what the method needs."""
    method, misfits = make(experiment.method.name, experiment.method.arguments), Misfits()
    for card in cards:
        try:
            method.check([card], experiment.questions.batch_statistics)
        except NeedsError as error:
            misfits[card.name] = str(error)
    return misfits


def _largest_that_fits(
    fit: list[Card], candidates: list[Card], failure: Failure, misfits: Misfits
) -> list[Card]:
    """``fit`` and all ``candidates`` that can be added; the others are entered in ``misfits``.

    Halves are tried before single cards: m misfits among n take some m log2 n trials.
    """
    if not candidates or (why := failure([*fit, *candidates])) is None:
        return fit + candidates
    if len(candidates) == 1:
        misfits[candidates[0].name] = why
        return fit
    half = len(candidates) // 2
    for part in (candidates[:half], candidates[half:]):
        fit = _largest_that_fits(fit, part, failure, misfits)
    return fit
