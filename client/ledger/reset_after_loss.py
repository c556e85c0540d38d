"""Go on with a ledger that lacks charges, or with a new one, by its owner's explicit decision."""

from contextlib import closing
from pathlib import Path

from fedkd.client.ledger.ledger import Ledger
from fedkd.client.ledger.rollback_detection import LedgerBehindAnchorError, anchor_of
from fedkd.errors import SettingsError


def reset_ledger(path: Path) -> tuple[str, int]:
    """Record in a ledger what it lacks, and let its anchor begin anew with that entry.

    Args:
        path: of the ledger; where there is none, an empty one is made.

    Returns:
        What is missing, and how many entries there are now.

    Raises:
        SettingsError: it lacks nothing.
        DataError: it cannot be opened or written, or fails verification.
    """
    try:
        Ledger.anchored(path).close()
    except LedgerBehindAnchorError as error:
        fault = error.fault
    else:
        raise SettingsError(f"{path} has all rows that were noted; there is nothing to reset")
    with closing(Ledger(path)) as ledger:
        ledger.verify()
        ledger.record_reset(fault)
        head = ledger.head()
        anchor_of(path).replace(ledger.id, head)
    return fault, head.sequence
