"""Who takes part at the start of a run: institutions whose cards do not fit are turned away.

A card may be out of proportion, of another shape than the others', without the signals that the
method needs, or such that answers cannot be fused. That must not end the run for the others.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from fedkd.core.earlier_student import TeacherCards
from fedkd.errors import FedkdError, NeedsError, SettingsError
from fedkd.experiment import Experiment
from fedkd.loop import Distillation
from fedkd.methods import make
from fedkd.protocol import Card, class_names_of
from fedkd.server.coordinator import StudentFactory, ingredients
from fedkd.server.fusion_dry_run import fusion_failure
from fedkd.wire import one_line

Misfits = dict[str, str]
"""Name of an institution -> why it cannot take part, in one line."""
Failure = Callable[[Sequence[Card]], str | None]
"""Why no run can begin with these institutions; None if one can."""


def misfits_at_start(
    experiment: Experiment, cards: Sequence[Card], build: StudentFactory | None = None
) -> Misfits:
    """The institutions without which the run can begin; none if it can with all of them.

    Args:
        experiment: resolved.
        cards: of those that are connected.
        build: makes the student, where it is not the one that the experiment names.

    Raises:
        SettingsError: no institution fits, or shapes differ and none has a majority.
    """

    def failure(some: Sequence[Card]) -> str | None:
        return start_failure(experiment, some, build)

    if not cards or failure(cards) is None:
        return {}
    misfits = shape_misfits(cards) | _misfits_by_needs(experiment, cards)
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


def shape_misfits(cards: Sequence[Card]) -> Misfits:
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
