"""A network that learns from the bank. Knows no institution, and not who invented the images."""

import torch
from torch import Tensor, nn

from fedkd.bank import Bank
from fedkd.compute import CPU, Compute
from fedkd.methods.method import Method
from fedkd.plan import Plan


class Learner:
    """The student, or another network that is taught as the student is.

    Args:
        network: (B, C, H, W) in [0, 1] -> (B, K); trained in place, where ``compute`` puts it.
        method: whose imitation and curriculum it learns by.
        plan: batch, rate and decay.
        compute: where, and how exactly.
    """

    def __init__(
        self, network: nn.Module, method: Method, plan: Plan, compute: Compute = CPU
    ) -> None:
        self.network, self.method, self.plan, self.compute = network, method, plan, compute
        compute.place(network)
        self.primer: nn.Module | None = None
        """Whose logits it learns beside the answers, by as much as the method says."""
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=1.0, weight_decay=plan.weight_decay, fused=compute.fused
        )

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
            rng: draws the batch.
            taken: steps before this one; they decide the rate.
            progress: of the run, in [0, 1]; decides the curriculum.

        Returns:
            Losses (B,), off the graph, and their weights (B,).
        """
        images, target = bank.draw(self.plan.student_batch, rng)
        self.network.train()
        own = self.compute.say(self.network, images)
        loss = self.method.imitation(own, target)  # (B,)
        if self.primer and self.method.primer:
            with torch.no_grad():
                hint = self.compute.say(self.primer, images)
            loss = loss + self.method.primer.weight(progress) * (own - hint).abs().mean(1)
        weight = self.method.curriculum.weights(loss, progress)
        objective = (weight * loss).mean()
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate(taken)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(objective)
        self.optimizer.step()
        return loss.detach(), weight
