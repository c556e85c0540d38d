"""Institutions that did not answer a request: the kind of event, and words for the record."""

from collections.abc import Mapping
from typing import TypeAlias

from fedkd.protocol import Refusal
from fedkd.server.hub.bans import BanReason, Exclusion
from fedkd.wire import MissingInstitutions

Lost: TypeAlias = Mapping[str, Refusal | str]
"""Who did not answer, and why."""


def reasons(lost: Lost) -> MissingInstitutions:
    """Kind of event and words for whoever did not answer, by name."""
    return {
        name: (
            _kind(reason),
            reason.text if isinstance(reason, Refusal) else str(reason),
        )
        for name, reason in sorted(lost.items())
    }


def _kind(reason: Refusal | str) -> str:
    """Of the event that an institution did not answer."""
    if isinstance(reason, Exclusion):
        return "excluded"
    return "banned" if isinstance(reason, BanReason) else "lost"
