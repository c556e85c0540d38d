"""The error that too few institutions connected, with what became of the others."""

from collections.abc import Mapping, Sequence

from fedkd.errors import QuorumLost
from fedkd.process.plural import counted
from fedkd.protocol import Card

NAMED_REASONS = 5
"""Institutions whose reason stands in the error."""


def quorum_lost(
    cards: Sequence[Card],
    count: int,
    timeout: float,
    turned_away: Mapping[str, str] | None = None,
) -> QuorumLost:
    """The error that only ``cards`` of ``count`` institutions came within ``timeout`` seconds.

    Args:
        cards: of those that are there.
        count: how many were needed.
        timeout: seconds.
        turned_away: those whose card did not fit, with reasons.
    """
    present = ", ".join(card.name for card in cards) or "none"
    reasons = list((turned_away or {}).values())
    refused = f"; turned away: {'; '.join(reasons[:NAMED_REASONS])}" if reasons else ""
    return QuorumLost(
        f"{counted(len(cards), 'institution')} came within {timeout:g} s ({present}{refused}), "
        f"expected {count}; start the agents that are missing, or ask for fewer"
    )
