"""AuxiliaryNetworks of a generator: found by the specs that its terms read, each once."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from fedkd.core.checkpoint_state import State
from fedkd.core.interfaces import Context
from fedkd.core.source_types import AnsweredBatch
from fedkd.losses import Batch, Term, one_hot
from fedkd.synthesis import BaseAuxiliaryNetwork
from fedkd.synthesis.auxiliary_networks.interface import AuxiliaryNetworks
from tests.support.contexts import context_of

SHAPE, K = (1, 4, 4), 3


@dataclass
class Watching(BaseAuxiliaryNetwork):
    """Reads the mean of the images, and notes what it is told."""

    told: list[object] = field(default_factory=list)

    def observe(self, batch: Batch, answered: AnsweredBatch | None, rng: torch.Generator) -> Tensor:
        self.told.append("observed")
        return batch.images.mean()

    def stepped(self) -> None:
        self.told.append("stepped")

    def finish(self, images: Tensor) -> None:
        self.told.append(images)

    def state(self) -> State:
        return State(numbers={"told": len(self.told)})

    def restore(self, state: State) -> None:
        """Nothing to do."""


@dataclass(frozen=True, eq=False)
class Spec:
    """Builds one."""

    def build(self, context: Context) -> Watching:
        return Watching()


def reading(name: str, *specs: Spec) -> Term:
    def value(b: Batch) -> Tensor:
        each: list[Any] = [b.of(spec) for spec in specs]
        return torch.stack(each).sum()

    return Term(name, "", frozenset(), value, reads=specs)


def test_terms_that_read_one_spec_share_its_network_with_whoever_else_holds_it() -> None:
    first, second = Spec(), Spec()
    context = context_of(nn.Identity(), SHAPE, K)
    terms = (reading("a", first), one_hot(), reading("b", second, first))
    auxiliary = AuxiliaryNetworks(terms, context)
    assert list(auxiliary.parts) == ["auxiliary0", "auxiliary1"]
    one, two = auxiliary.parts.values()
    assert (one, two) == (context.part(first), context.part(second))
    assert one is context.part(first)
    assert one is not two


def test_each_looks_once_at_a_batch_and_is_told_once_of_its_step_and_of_its_end() -> None:
    first, second = Spec(), Spec()
    context = context_of(nn.Identity(), SHAPE, K)
    terms = (reading("a", first), reading("b", second, first))
    auxiliary = AuxiliaryNetworks(terms, context)
    batch = Batch(torch.full((2, *SHAPE), 0.25), {}, torch.zeros(2, K))
    readings = auxiliary.observe(batch, None, context.rng)
    read = replace(batch, readings=readings)
    assert [float(term.value(read)) for term in terms] == [0.25, 0.5]
    auxiliary.stepped()
    images = torch.zeros(2, *SHAPE, dtype=torch.uint8)
    auxiliary.finish(images)
    for spec in (first, second):
        assert context.part(spec).told == ["observed", "stepped", images]


def test_terms_that_read_nothing_have_none() -> None:
    auxiliary = AuxiliaryNetworks([one_hot()], context_of(nn.Identity(), SHAPE, K))
    assert auxiliary.parts == {}
