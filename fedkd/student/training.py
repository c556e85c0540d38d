"""Student training: optimiser steps on batches of the bank, weighted by the curriculum."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fedkd.core.bank import Bank
from fedkd.core.device import CPU, Compute
from fedkd.core.interfaces import SampleWeights, StudentPart
from fedkd.core.run_plan import Plan
from fedkd.core.task import Loss
from fedkd.student.optimizers import StudentOptimizer, optimizer_of


class Trainer:
    """The student, or another network that is taught as the student is.

    Args:
        network: (B, C, H, W) in [0, 1] -> (B, K); trained in place, where ``compute`` puts it.
        loss: the distillation loss.
        weights: the curriculum.
        plan: batch, rate and decay.
        compute: where, and how exactly.
        parts: networks beside it, which may add to its loss and learn from its batches.
        optimizer: whose rate is set before each step; None: `optimizer_of` the plan.
        rate: step -> learning rate; None: the plan's.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Loss,
        weights: SampleWeights,
        plan: Plan,
        compute: Compute = CPU,
        parts: Sequence[StudentPart] = (),
        optimizer: StudentOptimizer | None = None,
        rate: Callable[[int], float] | None = None,
    ) -> None:
        self.network, self.loss, self.weights = network, loss, weights
        self.plan, self.compute, self.parts = plan, compute, parts
        compute.place(network)
        self.optimizer = optimizer or optimizer_of(network, plan, compute)
        self.rate = rate or plan.rate

    def logits(self, images: Tensor) -> Tensor:
        """Its answer to images (B, C, H, W) on any device: (B, K) float32, in ordinary memory.

        In evaluation mode, off the graph.
        """
        with self.compute.evaluation(self.network), torch.no_grad():
            return self.compute.logits(self.network, images).cpu()

    def step(
        self, bank: Bank, rng: torch.Generator, taken: int, progress: float
    ) -> tuple[Tensor, Tensor]:
        """One step on a batch of the bank.

        Args:
            bank: not empty.
            rng: draws the batch and its augmentation.
            taken: steps before this one; they decide the rate.
            progress: of the student, in [0, 1]; decides the curriculum.

        Returns:
            The losses (B,), off the graph, and their weights (B,).
        """
        if self.plan.batch_statistics:
            images, target = bank.draw_question(rng)
        else:
            images, target = bank.draw(self.plan.student_batch, rng)
        images = self.plan.augmentation.augment(images, rng)
        loss, weight = self.learn(images, target, taken, progress)
        for part in self.parts:
            part.follow(images, target, taken, progress)
        return loss, weight

    def learn(
        self, images: Tensor, target: Tensor, taken: int, progress: float
    ) -> tuple[Tensor, Tensor]:
        """One step on these images (B, C, H, W) and targets (B, K); see `step`."""
        self.network.train()
        logits = self.compute.logits(self.network, images)
        loss = self.loss(logits, target)
        for part in self.parts:
            if (term := part.term(images, logits, progress)) is not None:
                loss = loss + term
        weight = self.weights(loss, progress)
        for part in self.parts:
            if (factor := part.sample_weights(logits, target, progress)) is not None:
                weight = weight * factor
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(taken)
        self.optimizer.zero_grad()
        torch.autograd.backward((weight * loss).mean())
        self.optimizer.step()
        return loss.detach(), weight
