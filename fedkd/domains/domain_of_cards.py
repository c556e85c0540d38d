"""The domain of a federation, from the cards of its institutions."""

from collections.abc import Sequence

from fedkd.domains.images import Images
from fedkd.domains.tables import Table
from fedkd.protocol import Card, common_shape


def domain_of(cards: Sequence[Card]) -> Images | Table:
    """What these institutions' teachers read.

    Raises:
        SettingsError: they do not agree, or there is none.
    """
    shape = common_shape(cards)
    return Table(cards[0].columns) if cards[0].columns else Images(shape)
