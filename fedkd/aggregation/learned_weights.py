"""What each institution's word weighs, learned from answers alone. Knows no image, no teacher."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.core.state import State
from fedkd.methods.method import Boosting


class Weights:
    """Weights of institutions in [0, 1], and all answers that the bank has of them.

    Args:
        boosting: how they are learned.
        capacity: of the bank; None: it keeps all.
    """

    def __init__(self, boosting: Boosting, capacity: int | None) -> None:
        self.boosting, self.capacity = boosting, capacity
        self.weights: dict[str, float] = {}
        """By institution; begin at one share each."""
        self._said: dict[str, Tensor] = {}
        self._wanted = torch.empty(0, dtype=torch.long)
        self._epochs = 0

    def of(self, names: Sequence[str]) -> Mapping[str, float]:
        """Of these institutions. Whoever is new weighs one share."""
        for name in names:
            self.weights.setdefault(name, 1 / len(names))
        return self.weights

    def hear(self, said: Mapping[str, Tensor], kept: Tensor | None, wanted: Tensor | None) -> None:
        """Remember what was said of what the bank keeps.

        Args:
            said: logits (B, K) by institution, over the federation's classes.
            kept: (B,) bool, what entered the bank; None: all.
            wanted: (B,) classes, where weights are to be learned on these images.
        """
        first = next(iter(said.values()))
        classes = torch.full((len(first),), -1) if wanted is None else wanted
        absent = torch.full_like(first, torch.nan)
        keep = torch.ones(len(first), dtype=torch.bool) if kept is None else kept
        for name in self._said.keys() | said.keys():
            nothing = absent[:1].expand(len(self._wanted), -1)
            before = self._said.get(name, nothing)
            self._said[name] = self._last(torch.cat([before, said.get(name, absent)[keep]]))
        self._wanted = self._last(torch.cat([self._wanted, classes[keep]]))

    def learn(self, rng: torch.Generator) -> None:
        """One epoch: ``w <- clip(w - rate decay^epoch sign(d CE / d w), 0, 1)`` for each batch.

        CE is of the weighted mean of logits with the wanted class.

        Source: Co-Boosting (Dai et al., ICLR 2024).
        """
        self._epochs += 1
        labelled = (self._wanted >= 0).nonzero()[:, 0]
        labelled = labelled[torch.randperm(len(labelled), generator=rng)]
        step = self.boosting.rate * self.boosting.decay**self._epochs
        names = sorted(self._said)
        weight = torch.tensor([self.weights[name] for name in names])
        for rows in torch.split(labelled, self.boosting.batch) if names else ():
            leaf = weight.clone().requires_grad_()
            said = torch.stack([self._said[name][rows] for name in names])
            loss = F.cross_entropy(_mean(said, leaf), self._wanted[rows])
            (slope,) = torch.autograd.grad(loss, leaf)
            weight = (weight - step * slope.sign()).clamp(0.0, 1.0)
        self.weights |= dict(zip(names, weight.tolist(), strict=True))

    def targets(self) -> Tensor:
        """(N, K), what the bank's images are now said to show, oldest first."""
        names = sorted(self._said)
        said = torch.stack([self._said[name] for name in names])
        return _mean(said, torch.tensor([self.weights[name] for name in names]))

    def state(self) -> State:
        """Weights, and all that was heard."""
        said = {f"said/{name}": tensor.clone() for name, tensor in self._said.items()}
        numbers = {"weights": dict(self.weights), "epochs": self._epochs}
        return State({"wanted": self._wanted.clone(), **said}, numbers)

    def restore(self, state: State) -> None:
        """Weigh again as when ``state`` was taken."""
        said = {k[len("said/") :]: t for k, t in state.tensors.items() if k != "wanted"}
        self._said = {name: tensor.clone() for name, tensor in said.items()}
        self._wanted = state.tensors["wanted"].clone()
        self.weights, self._epochs = dict(state.numbers["weights"]), state.numbers["epochs"]

    def _last(self, rows: Tensor) -> Tensor:
        return rows if self.capacity is None else rows[-self.capacity :]


def _mean(said: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over those who answered, of (T, B, K) with NaN where one did not. (B, K)."""
    present = ~said[..., :1].isnan()  # (T, B, 1)
    each = weight[:, None, None] * present
    total = each.sum(0)
    alike = present / present.sum(0)
    share = torch.where(total > 0, each / total.clamp_min(1e-12), alike)
    return (share * said.nan_to_num()).sum(0)
