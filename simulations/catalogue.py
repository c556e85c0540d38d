"""The list of methods, for a terminal."""

from rich.table import Table

from fedkd.methods import METHODS
from simulations.show import console

WAYS = ("none", "pull_back")


def print_methods() -> None:
    """Every method: paper, what it asks of an institution, what that discloses."""
    table = Table(title="Methods")
    for column in ("method", "gradient", "asks of an institution", "which discloses", "paper"):
        table.add_column(column, overflow="fold")
    for name, factory in METHODS.items():
        for way in WAYS:
            method = factory(gradient=way)
            asks = [signal.value for signal in sorted(method.needs)]
            discloses = ["class scores of invented images"]
            if method.trains and method.gradient.pulls_back:
                asks.append("gradients (pull_back)")
                discloses.append("how scores change with pixels")
            if "bn_gap" in asks:
                discloses.append("distance to its batch-norm statistics")
            table.add_row(name, way, ", ".join(asks), "; ".join(discloses), method.paper)
    console.print(table)
