"""What the operator expects of every institution's card, see ``[expect]`` of an experiment."""

from fedkd.experiment import Expect
from fedkd.protocol import Card, abbreviated, class_names_of


def expectation_failure(expect: Expect, card: Card) -> str | None:
    """Why ``card`` is not as expected, in one line; None if it is, or nothing is expected."""
    if expect.shape is not None and card.shape != expect.shape:
        return (
            f"{card.name} reads images of {card.shape}, this run expects {expect.shape} "
            "(expect.shape); bring a teacher of that shape"
        )
    if isinstance(expect.classes, int) and card.classes != expect.classes:
        return (
            f"{card.name} has {card.classes} classes, this run expects {expect.classes} "
            "(expect.classes); bring a teacher of these"
        )
    if isinstance(expect.classes, tuple):
        known = set(expect.classes)
        if strange := [name for name in class_names_of(card) if name not in known]:
            return (
                f"{card.name} knows {abbreviated(strange)}, which this run does not expect "
                "(expect.classes); name the classes as the coordinator does"
            )
    return None
