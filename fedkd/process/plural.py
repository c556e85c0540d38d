"""Numbers with their noun, for messages: ``1 institution``, ``1,200 institutions``."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """``number`` and the noun that goes with it, by default with an s for any number but 1."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
