"""Auxiliary networks trained beside a generator, whose outputs its loss terms read."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from fedkd.core.checkpoint_state import Stateful
from fedkd.core.interfaces import Context
from fedkd.core.source_types import AnsweredBatch
from fedkd.losses.term import Batch, Term


class AuxiliaryNetwork(Stateful, Protocol):
    """Something that looks at synthesised images before the terms do."""

    def views(self, images: Tensor, rng: torch.Generator) -> Tensor | None:
        """Further images whose features the teacher is asked for, (B', C, H, W); None: none.

        What is answered is in `Batch.views` when `observe` is called.

        Args:
            images: (B, C, H, W) in [0, 1], with the graph that views are to have too.
            rng: the sources' stream.
        """

    def observe(self, batch: Batch, answered: AnsweredBatch | None, rng: torch.Generator) -> Any:
        """What terms read, by `Batch.of`, with its graph; may first learn from what was answered.

        Args:
            batch: without any readings; ``teacher`` is empty where nobody was asked yet.
            answered: what was asked and answered; None in a surrogate step.
            rng: the sources' stream.
        """

    def stepped(self) -> None:
        """The terms' gradients have been computed: a step of its own may be taken."""

    def finish(self, images: Tensor) -> None:
        """A batch that was trained for several steps is finished, (B, C, H, W) uint8."""


class BaseAuxiliaryNetwork:
    """Defaults of an auxiliary network that learns nothing from the terms."""

    def views(self, images: Tensor, rng: torch.Generator) -> Tensor | None:
        """None."""
        return None

    def stepped(self) -> None:
        """Nothing."""

    def finish(self, images: Tensor) -> None:
        """Nothing."""


class AuxiliaryNetworks:
    """All auxiliary networks that the terms of one generator read, in their order.

    Args:
        terms: of the generator.
        context: builds them; whoever else holds the same spec has the same auxiliary network.
    """

    def __init__(self, terms: Sequence[Term], context: Context) -> None:
        specs = {id(spec): spec for term in terms for spec in term.reads}
        self._each: dict[int, AuxiliaryNetwork] = {
            identity: context.part(spec) for identity, spec in specs.items()
        }

    def views(self, images: Tensor, rng: torch.Generator) -> dict[int, Tensor]:
        """Views that any of them wants features of, by identity of its spec."""
        wanted = {i: each.views(images, rng) for i, each in self._each.items()}
        return {i: views for i, views in wanted.items() if views is not None}

    def observe(
        self, batch: Batch, answered: AnsweredBatch | None, rng: torch.Generator
    ) -> dict[int, Any]:
        """Readings by identity of the spec."""
        return {i: each.observe(batch, answered, rng) for i, each in self._each.items()}

    def stepped(self) -> None:
        """Tell each."""
        for each in self._each.values():
            each.stepped()

    def finish(self, images: Tensor) -> None:
        """Tell each."""
        for each in self._each.values():
            each.finish(images)

    @property
    def parts(self) -> dict[str, AuxiliaryNetwork]:
        """By the name that each has in a state."""
        return {f"auxiliary{i}": each for i, each in enumerate(self._each.values())}
