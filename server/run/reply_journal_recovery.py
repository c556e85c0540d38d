"""Opening the journal of an interrupted run: check its cards, leave institutions out.

An institution is left out as if it had never joined, as far as the saved state allows: the journal
is cut before the first question that it joined with or answered. Its answers are fused out of the
targets of a saved state; what the student has learned from them stays learned.
"""

from collections.abc import Collection
from pathlib import Path

from fedkd.errors import DataError, SettingsError
from fedkd.protocol import Card, LabelSpaces, abbreviated, card_violation
from fedkd.wire import Replay, ReplyRecorder


def open_journal(
    recorder: ReplyRecorder,
    saved: int | None,
    without: Collection[str] = (),
    *,
    recorded: bool = False,
) -> Replay | None:
    """Open the journal of an interrupted run at its saved state.

    Args:
        recorder: of the journal; afterwards it knows the cards of all who still take part.
        saved: questions that the saved state knows; None: there is no state.
        without: names of institutions that are left out.
        recorded: whether the file keeps all replies of the run, also those before the state.

    Returns:
        A replay of what the state does not know; None where no question was kept.

    Raises:
        DataError: the file cannot be read, a card in it is out of bounds, or it lacks the question
            after the state.
        SettingsError: an institution cannot be left out.
    """
    start = saved or 0
    replay = recorder.resume(without, start)
    left_out = [card for card in recorder.cards if card.name in without]
    if left_out and saved is None:  # the first question was put to it: begin anew
        replay.close()
        recorder.close()
        recorder.path.unlink()
        recorder.reset()
        return None
    if not replay.first <= start <= recorder.queries:
        raise DataError(
            f"{recorder.path} does not hold what was answered after {start} questions; "
            "start the run again"
        )
    if left_out:
        replay.close()
        replay = _restart_at_state(recorder, start, without, recorded)
    else:
        for _ in range(start - replay.first):
            replay.skip()
    check_cards(recorder.cards, recorder.path)
    return replay


def check_cards(cards: Collection[Card], journal: Path) -> None:
    """Hold recorded cards against the bounds of today.

    Raises:
        DataError: the card of an institution is out of bounds.
    """
    for card in cards:
        if why := card_violation(card):
            raise DataError(
                f"{card.name} has {why}, and it is in {journal}; go on without it: --resume DIR "
                f"--without {card.name}"
            )


def _restart_at_state(
    recorder: ReplyRecorder, start: int, without: Collection[str], recorded: bool
) -> Replay:
    """A new journal from the state on, for those who are left."""
    left = [card for card in recorder.cards if card.name not in without]
    names = ", ".join(sorted(without))
    if recorded:
        raise SettingsError(
            f"this run keeps all replies, those of {names} too, and cannot go on without; start it "
            "again without it"
        )
    known = LabelSpaces.of(recorder.cards).names
    if missing := sorted(set(known) - set(LabelSpaces.of(left).names)):
        raise SettingsError(
            f"without {names} nobody knows {abbreviated(missing)}, which the saved student has "
            "learned; start the run again without it"
        )
    recorder.start(left, start)
    return Replay(recorder.path)
