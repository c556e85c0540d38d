"""The command `fedkd experiments`: each shipped experiment, in the first sentence of its file."""

import re
from pathlib import Path

from rich.table import Table

from fedkd.experiment.loading import SHIPPED_FOLDER
from fedkd.server.run.console import console


def print_experiments() -> None:
    """Name and first sentence of every experiment that ships with fedkd."""
    table = Table(title="Experiments", title_justify="left", show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for path in sorted(SHIPPED_FOLDER.glob("*.toml")):
        table.add_row(path.stem, first_sentence(path))
    console.print(table)


def first_sentence(path: Path) -> str:
    """Of the comment at the beginning of a file: up to a full stop, or all of it."""
    lines = path.read_text().splitlines()
    comment = []
    for line in lines:
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    return re.split(r"(?<=\.)\s", " ".join(comment), maxsplit=1)[0]
