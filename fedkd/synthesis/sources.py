"""Where images come from: priors, a generator, the bank's own evolution. Knows no teacher.

Every source draws a batch and is told what the teachers made of it. Images that carry a graph
(``requires_grad``) ask to be improved; the loop does that for whoever asks. A batch has a seed of
its own, by which priors and a generator that learns no more have a recipe; what is made of images
that were there before, or learned from, has none.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.core.bank import Bank
from fedkd.core.state import State
from fedkd.models import Generator, Latents, Pixels, SynthesisTarget
from fedkd.procedural import SEED_LIMIT, Prior, frozen_generator, named_prior, render
from fedkd.protocol import FrozenGenerator, NamedPrior, Recipe
from fedkd.synthesis.data_impressions import Similarity


@dataclass(frozen=True, eq=False)
class Drawn:
    """A batch of invented images."""

    images: Tensor
    """(B, C, H, W): uint8, or float in [0, 1] with a graph behind it."""
    origin: str
    """Who drew it, for the record."""
    wanted: Tensor | None = None
    """(B,) classes that the images are meant to show, or (B, K) probabilities that they are meant
    to be given; None where nobody means anything."""
    recipe: Recipe | None = None
    """By which whoever has it draws the same images; None where there is none."""

    def only(self, which: Tensor) -> "Drawn":
        """Those that are ``which``, (B,) bool."""
        wanted = None if self.wanted is None else self.wanted[which]
        recipe = None if self.recipe is None else self.recipe.select(which)
        return Drawn(self.images[which.to(self.images.device)], self.origin, wanted, recipe)


class Source(Protocol):
    """Something that invents images."""

    def draw(self, count: int, rng: torch.Generator) -> Drawn:
        """``count`` new images."""

    def learn(self, origin: str, target: Tensor) -> None:
        """Hear what the teachers answered, (B, K) fused logits, to a batch of ``origin``."""


class PriorChoice:
    """Procedural priors, each chosen as often as it excites the teachers.

    The signal that needs no data: H, the entropy of the teachers' hard answers over classes,
    over a prior's last ``memory`` batches, normalised to [0, 1]. A prior whose images all look
    like one class to the teachers teaches one class. Every prior is tried once first; then they
    are drawn with probability softmax(H / sharpness).

    Args:
        priors: by name, at least one.
        shape: (C, H, W).
        sharpness: > 0; small trusts H blindly.
        memory: batches remembered of each prior.
    """

    def __init__(
        self,
        priors: Mapping[str, Prior],
        shape: tuple[int, int, int],
        sharpness: float = 0.1,
        memory: int = 8,
    ) -> None:
        self.priors, self.shape, self.sharpness = dict(priors), shape, sharpness
        self._heard: dict[str, deque[Tensor]] = {n: deque(maxlen=memory) for n in self.priors}

    @property
    def class_entropy(self) -> dict[str, float]:
        """H of each prior that was tried, in [0, 1]."""
        return {n: class_entropy(tuple(heard)) for n, heard in self._heard.items() if heard}

    @property
    def untried(self) -> list[str]:
        """Priors of which nothing was heard yet, in their order."""
        return [n for n, heard in self._heard.items() if not heard]

    def draw(self, count: int, rng: torch.Generator) -> Drawn:
        """From a prior not yet tried, or else from one chosen by H."""
        name = self._choose(rng)
        prior, seed = self.priors[name], _seed(rng)
        if source := named_prior(prior):
            return _by_recipe(source, seed, count, self.shape, name)
        return Drawn(prior.draw(count, self.shape, torch.Generator().manual_seed(seed)), name)

    def learn(self, origin: str, target: Tensor) -> None:
        """Remember how the hard answers of this batch spread over classes."""
        if origin in self._heard:
            self._heard[origin].append(target.argmax(1).bincount(minlength=target.shape[1]))

    def state(self) -> State:
        """What was heard of each prior; priors themselves remember nothing."""
        return State(numbers={n: [c.tolist() for c in heard] for n, heard in self._heard.items()})

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken of the same priors."""
        for name, heard in self._heard.items():
            heard.clear()
            heard.extend(torch.tensor(counts) for counts in state.numbers[name])

    def _choose(self, rng: torch.Generator) -> str:
        if untried := self.untried:
            return untried[0]
        entropy = self.class_entropy
        weight = (torch.tensor([entropy[n] for n in self.priors]) / self.sharpness).softmax(0)
        return list(self.priors)[int(torch.multinomial(weight, 1, generator=rng))]


def class_entropy(counts: Sequence[Tensor]) -> float:
    """Entropy of class counts, each (K,), added up; 0 for one class, 1 for all alike."""
    p = torch.stack(list(counts)).sum(0).float()
    p = p / p.sum()
    return float(torch.special.entr(p).sum() / torch.log(torch.tensor(float(len(p)))))


class Generated:
    """A generator in training: its images carry the graph through which it learns.

    One that learns no more, and has neither classes nor an average, paints in float64 from weights
    in float16: as whoever has its recipe.


    Args:
        generator: in training.
        classes: K, if it is told the class that each image is to show, else 0.
        average: of its weights, which paints in its place once it has learned; None: nothing does.
    """

    def __init__(
        self, generator: Generator, classes: int = 0, average: nn.Module | None = None
    ) -> None:
        self.generator, self.classes, self.average = generator, classes, average
        self.learning = True
        """Whether images carry a graph; a generator that has learned enough paints without."""

    def draw(self, count: int, rng: torch.Generator) -> Drawn:
        """G(z), z ~ N(0, 1), and where it is told classes, those are drawn all alike."""
        painter: nn.Module = self.generator
        if not self.learning and self.average is not None:
            painter = self.average
        elif not (self.learning or self.classes) and (source := frozen_generator(self.generator)):
            return _by_recipe(source, _seed(rng), count, self.generator.shape, "generator")
        painter.train(self.learning)
        z, wanted = torch.randn(count, self.generator.latent - self.classes, generator=rng), None
        if self.classes:
            wanted = torch.randint(self.classes, (count,), generator=rng)
            z = torch.cat([z, F.one_hot(wanted, self.classes)], 1)
        z = z.to(self.generator.project.weight.device)
        with torch.set_grad_enabled(self.learning):
            return Drawn(painter(z), "generator", wanted)

    def learn(self, origin: str, target: Tensor) -> None:
        """It learns through the graph, not here."""


class Kept:
    """One batch, drawn again and again while it learns to show the classes that it should.

    Args:
        canvas: how it is shown.
        painter: what is trained.
        count: most images in a batch.
        classes: K.
        similarity: of classes, around which probabilities are wanted as soon as it is known; None:
            classes are wanted always.
    """

    def __init__(
        self,
        canvas: SynthesisTarget,
        painter: Latents | Pixels,
        count: int,
        classes: int,
        similarity: Similarity | None = None,
    ) -> None:
        self.canvas, self.painter, self.classes = canvas, painter, classes
        self.similarity = similarity
        self.learning = True
        self._wanted = torch.zeros(count, dtype=torch.long)
        self._shown = 0
        self._said: Tensor | None = None

    def begin(self, rng: torch.Generator) -> None:
        """Another batch: every class equally often, but for a remainder, in random order."""
        if self.similarity and self._said is not None and self._wanted.ndim == 1:
            self.similarity.hear(self._wanted[: len(self._said)], self._said)
        self._said = None
        self.painter.begin(rng)
        order = torch.randperm(len(self._wanted), generator=rng)
        start = int(torch.randint(self.classes, (), generator=rng))
        self._wanted = (order + start) % self.classes
        if self.similarity and self.similarity.known:
            self._wanted = self.similarity.draw(self._wanted, rng)

    def draw(self, count: int, rng: torch.Generator) -> Drawn:
        """The first ``count`` of the batch."""
        self.painter.train()
        with torch.set_grad_enabled(self.learning):
            images = self.canvas.augment(self.painter()[:count], rng)
        self._shown = len(images)
        return Drawn(images, "generator", self._wanted[:count])

    def learn(self, origin: str, target: Tensor) -> None:
        """Images learn through the graph; what was said of the last ones tells how classes lie."""
        if self.similarity and len(target) == self._shown:
            self._said = target

    def state(self) -> State:
        """What is wanted and was said of it; the painter is a part of its own."""
        said = {} if self._said is None else {"said": self._said.clone()}
        return State({"wanted": self._wanted.clone(), **said})

    def restore(self, state: State) -> None:
        """Want again what was wanted when ``state`` was taken."""
        self._wanted = state.tensors["wanted"].clone()
        self._said = state.tensors["said"].clone() if "said" in state.tensors else None


class Evolved:
    """Children of banked images: pairs mixed, or one shifted, with some of a prior added.

    Parents are the images on which the student is furthest from the answer, among a random few.

    Args:
        bank: where parents come from.
        prior: what new material comes from.
        difficulty: (B, C, H, W) uint8 and (B, K) targets -> (B,) student's loss.
        noise: share of the prior in a child, in [0, 1].
    """

    def __init__(
        self, bank: Bank, prior: PriorChoice, difficulty: "Difficulty", noise: float = 0.3
    ) -> None:
        self.bank, self.prior, self.difficulty, self.noise = bank, prior, difficulty, noise

    def draw(self, count: int, rng: torch.Generator) -> Drawn:
        """Children; the prior's own while parents are few or a prior was never tried."""
        ripe = len(self.bank) >= 4 * count and not self.prior.untried
        fresh = self.prior.draw(count, rng)
        if not ripe:
            return fresh
        images, targets = self.bank.draw(4 * count, rng)
        hardest = self.difficulty(images, targets).topk(2 * count).indices
        mother, father = images[hardest].cpu().float().chunk(2)
        paired = (torch.rand(count, generator=rng) < 0.5).view(-1, 1, 1, 1)
        share = torch.rand(count, 1, 1, 1, generator=rng)
        dy, dx = (int(torch.randint(-1, 2, (), generator=rng)) for _ in "yx")
        child = torch.where(
            paired, share * mother + (1 - share) * father, mother.roll((dy, dx), (2, 3))
        )
        child = (1 - self.noise) * child + self.noise * fresh.images.float()
        return Drawn(child.round().clamp(0, 255).to(torch.uint8), "evolution")

    def learn(self, origin: str, target: Tensor) -> None:
        """The bank remembers children; what a prior drew is the prior's to hear."""
        self.prior.learn(origin, target)


class Difficulty(Protocol):
    """How far the student is from the answers."""

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """(B, C, H, W) uint8, (B, K) -> (B,)."""


def _by_recipe(
    source: NamedPrior | FrozenGenerator,
    seed: int,
    count: int,
    shape: tuple[int, int, int],
    origin: str,
) -> Drawn:
    recipe = Recipe(source, seed, count)
    return Drawn(render(recipe, shape), origin, recipe=recipe)


def _seed(rng: torch.Generator) -> int:
    """Of one batch: whoever has it can draw the batch without what was drawn before."""
    return int(torch.randint(SEED_LIMIT, (), generator=rng))


def to_bytes(images: Tensor) -> Tensor:
    """Images as they are asked about: (B, C, H, W) uint8, off the graph, in ordinary memory."""
    if images.dtype == torch.uint8:
        return images.cpu()
    rounded = (images.detach() * 255.0).round_().clamp_(0, 255).to(torch.uint8)
    return rounded.to("cpu", memory_format=torch.contiguous_format)
