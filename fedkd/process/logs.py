"""Event log: one line an event, as text for people or as JSON for machines.

An event is a word and facts: counts, names and seconds, never content. Each is one line, with the
time in UTC. Whatever other libraries log goes the same way; of an exception only its type is
written, since its text may quote private data.
"""

import json
import logging
import sys
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import TextIO

from fedkd.errors import SettingsError

OURS = ("fedkd",)
"""Packages whose events are written from INFO up; others' from WARNING."""


def log_event(
    log: logging.Logger, event: str, level: int = logging.INFO, /, **facts: object
) -> None:
    """Write one event.

    Args:
        log: of the module that it happens in.
        event: one word.
        level: of `logging`.
        **facts: numbers, short strings, or None for what does not apply.
    """
    log.log(level, event, extra={"facts": facts})


def facts_of(record: logging.LogRecord) -> dict[str, object] | None:
    """What `log_event` was given; None for a record that somebody else wrote."""
    facts = getattr(record, "facts", None)
    return facts if isinstance(facts, dict) else None


class _Lines(logging.Formatter, ABC):
    """One event a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        event, facts = record.getMessage(), facts_of(record)
        if facts is None:
            event, facts = "message", {"from": record.name, "text": event}
        if record.exc_info and record.exc_info[0]:
            facts = {**facts, "error": record.exc_info[0].__name__}
        facts = {name: fact for name, fact in facts.items() if fact is not None}
        return self._line(time.replace("+00:00", "Z"), record.levelname.lower(), event, facts)

    @abstractmethod
    def _line(self, time: str, level: str, event: str, facts: dict[str, object]) -> str:
        """One event as a line of text."""


class JsonLines(_Lines):
    """One JSON object a line: time, level, event, and the facts."""

    def _line(self, time: str, level: str, event: str, facts: dict[str, object]) -> str:
        return json.dumps({"time": time, "level": level, "event": event, **facts}, default=str)


class TextLines(_Lines):
    """Words in columns. Strings are quoted as JSON has it, so that none can forge a line."""

    def _line(self, time: str, level: str, event: str, facts: dict[str, object]) -> str:
        said = " ".join(f"{name}={json.dumps(fact, default=str)}" for name, fact in facts.items())
        return f"{time} {level:<7} {event:<16} {said}".rstrip()


STYLES: dict[str, type[_Lines]] = {"text": TextLines, "json": JsonLines}
"""Formatters by the name that people type."""


def configure_logging(style: str, stream: TextIO | None = None) -> None:
    """Have this process's events written; in the place of what was configured before.

    Args:
        style: a key of `STYLES`.
        stream: where to; None for standard error.

    Raises:
        SettingsError: no such style.
    """
    if style not in STYLES:
        raise SettingsError(f"no log of style {style!r}; choose one of {', '.join(STYLES)}")
    writer = logging.StreamHandler(stream or sys.stderr)
    writer.setFormatter(STYLES[style]())
    root = logging.getLogger()
    root.handlers[:] = [writer]
    root.setLevel(logging.WARNING)
    for package in OURS:
        logging.getLogger(package).setLevel(logging.INFO)
