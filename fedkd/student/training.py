"""Networks that learn from the bank. They know no institution, and not who invented the images."""

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from fedkd.core.bank import Bank
from fedkd.core.compute import CPU, Compute
from fedkd.core.plan import Plan
from fedkd.core.state import Part
from fedkd.methods.method import Method
from fedkd.models import reinitialised


class Learner:
    """The student with its peers, or another network that is taught as the student is.

    Args:
        network: (B, C, H, W) in [0, 1] -> (B, K); trained in place, where ``compute`` puts it.
        method: whose imitation and curriculum it learns by, and how many peers it has.
        plan: batch, rate and decay.
        compute: where, and how exactly.
        seed: of the peers' first weights.
    """

    def __init__(
        self,
        network: nn.Module,
        method: Method,
        plan: Plan,
        compute: Compute = CPU,
        seed: int = 0,
    ) -> None:
        self.network, self.method, self.plan, self.compute = network, method, plan, compute
        self.peers = nn.ModuleList(
            reinitialised(network, seed + 1 + i) for i in range(method.peers)
        )
        """Networks like it that began elsewhere, and learn from the same batches."""
        for each in (network, *self.peers):
            compute.place(each)
        self.primer: nn.Module | None = None
        """Whose logits it learns beside the answers, by as much as the method says."""
        self.optimizer = torch.optim.AdamW(
            [*network.parameters(), *self.peers.parameters()],
            lr=1.0,
            weight_decay=plan.weight_decay,
            fused=compute.fused,
        )

    @property
    def parts(self) -> dict[str, Part]:
        """All of it that changes, but the network itself, by the name that it has in a state."""
        parts: dict[str, Part] = {"optimizer": self.optimizer}
        if self.peers:
            parts["peers"] = self.peers
        return parts

    def see(self, images: Tensor) -> Tensor:
        """What it says of images (B, C, H, W) on any device: (B, K) float32, in ordinary memory.

        In evaluation mode, off the graph.
        """
        self.network.eval()
        with torch.no_grad():
            return self.compute.say(self.network, images).cpu()

    def step(
        self, bank: Bank, rng: torch.Generator, taken: int, progress: float
    ) -> tuple[Tensor, Tensor]:
        """One step on a batch of the bank.

        Args:
            bank: not empty.
            rng: draws the batch and the views of it.
            taken: steps before this one; they decide the rate.
            progress: of the run, in [0, 1]; decides the curriculum.

        Returns:
            The network's losses (B,), off the graph, and their weights (B,).
        """
        images, target = bank.draw(self.plan.student_batch, rng)
        images = self.plan.views.of(images, rng)
        loss, weight = self._loss(self.network, images, target, progress)
        objective = (weight * loss).mean()
        for peer in self.peers:
            its, share = self._loss(peer, images, target, progress)
            objective = objective + (share * its).mean()
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate(taken)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(objective)
        self.optimizer.step()
        return loss.detach(), weight

    def _loss(
        self, network: nn.Module, images: Tensor, target: Tensor, progress: float
    ) -> tuple[Tensor, Tensor]:
        """Losses of one network, (B,), and their weights (B,)."""
        network.train()
        own = self.compute.say(network, images)
        loss = self.method.imitation(own, target)
        if self.primer and self.method.primer:
            with torch.no_grad():
                hint = self.compute.say(self.primer, images)
            loss = loss + self.method.primer.weight(progress) * (own - hint).abs().mean(1)
        return loss, self.method.curriculum.weights(loss, progress)


def first_student(
    student: nn.Module, method: Method, plan: Plan, compute: Compute
) -> Learner | None:
    """A copy of ``student`` that is taught before it, where the method has one."""
    if (primer := method.primer) is None:
        return None
    steps = max(1, round(primer.steps * plan.steps))
    return Learner(copy.deepcopy(student), method, replace(plan, steps=steps), compute)
