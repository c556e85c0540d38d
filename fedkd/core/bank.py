"""Sample bank: synthesised samples with their targets, which the student replays; grows."""

from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.core.checkpoint_state import State
from fedkd.core.held_back import is_held_back
from fedkd.core.seen_samples import SeenSamples, sample_keys

MEMORY = torch.device("cpu")


class Bank:
    """Images and their targets, the fused answers of the institutions.

    Args:
        capacity: most images kept, > 0; the oldest are overwritten. None keeps all. Of each that
            was overwritten eight bytes stay, so that it is not asked about again.
        device: where they are kept, a byte a value.
        held_back: share of the samples that are kept and never drawn, in [0, 0.5].
        seed: decides which.
        by_question: whether targets of one question alone may be compared, so that `draw` gives
            samples of one.
        whole_questions: whether the samples of a question stay together: all of them are held back
            or none, and `draw_question` draws them at once. Not beside a capacity.
    """

    def __init__(
        self,
        capacity: int | None = None,
        device: torch.device = MEMORY,
        held_back: float = 0.0,
        seed: int = 0,
        by_question: bool = False,
        whole_questions: bool = False,
    ) -> None:
        self.capacity, self.device = capacity, device
        self._by_question, self._whole = by_question, whole_questions
        self._share, self._seed = held_back, seed
        self._seen = SeenSamples()
        self._images = torch.empty(0, 0, 0, 0, dtype=torch.uint8, device=device)
        self._targets = torch.empty(0, 0, device=device)
        self._times = torch.empty(0, dtype=torch.long)
        self._question = torch.empty(0, dtype=torch.long)
        self._questions = 0
        self._added = 0

    def __len__(self) -> int:
        """N, images at hand, those that are held back included."""
        return min(self._added, len(self._images))

    @property
    def images(self) -> Tensor:
        """(N, C, H, W) uint8."""
        return self._images[: len(self)]

    @property
    def targets(self) -> Tensor:
        """(N, K) fused logits."""
        return self._targets[: len(self)]

    def history(self) -> tuple[Tensor, Tensor]:
        """All that is kept, oldest first: (N, C, H, W) uint8 and (N, K)."""
        order = self._order(len(self))
        return self._images[order], self._targets[order]

    @property
    def added(self) -> int:
        """Images that ever entered."""
        return self._added

    def newest(self, count: int) -> Tensor:
        """Of the last ``count`` images that entered, those that may be learned from: uint8.

        Oldest first, as far as they are kept.
        """
        return self._images[self._newest(count)]

    def newest_answered(self, count: int) -> tuple[Tensor, Tensor]:
        """`newest` and their targets: (B, C, H, W) uint8 and (B, K)."""
        order = self._newest(count)
        return self._images[order], self._targets[order]

    def _newest(self, count: int) -> Tensor:
        order = self._order(min(count, len(self)))
        return order[(self._times[order.cpu()] > 0).to(order.device)]

    def fresh(self, images: Tensor) -> Tensor:
        """Which of ``images`` (B, C, H, W) have been asked about neither before nor above. (B,)."""
        keys = sample_keys(images.numpy())
        first = np.zeros(len(keys), np.bool_)
        first[np.unique(keys, return_index=True)[1]] = True
        return torch.from_numpy(first & ~self._seen.contains(keys))

    def add(
        self, images: Tensor, targets: Tensor, selected: Tensor | None = None, times: int = 1
    ) -> Tensor | None:
        """Keep ``images`` (B, C, H, W) uint8, in ordinary memory, with their targets (B, K).

        Those that are not ``selected``, (B,) bool, count as seen and are not kept; None: all are.
        What is held back is kept anyway, since a selection goes by the answers, and is never
        drawn. Each of the others is drawn as often as ``times`` images would be, >= 1.

        Returns:
            Which are kept, (B,) bool; None: all.
        """
        keys = sample_keys(images.numpy())
        self._seen.add(keys)
        deciding = np.repeat(keys[:1], len(keys)) if self._whole else keys
        held = torch.from_numpy(is_held_back(deciding, self._share, self._seed))
        kept = None if selected is None else selected.cpu() | held
        if kept is not None:
            images, targets, held = images[kept], targets[kept], held[kept]
        end = self._added + len(images)
        self._reserve(end, images, targets)
        slots = torch.arange(self._added, end) % len(self._images)
        self._times[slots] = torch.where(held, 0, times)
        self._question[slots] = self._questions
        self._questions += 1
        if not bool(self._times[: min(end, len(self._images))].any()):
            # There is always something to draw.
            self._times[slots if self._whole else slots[-1]] = times
        slots = slots.to(self.device)
        self._images[slots] = images.to(self.device)
        missing = self._targets.shape[1] - targets.shape[1]
        self._targets[slots] = F.pad(targets.detach(), (0, missing)).to(self.device)
        self._added = end
        return kept

    def retarget(self, targets: Tensor) -> None:
        """Replace the targets of all that is kept by ``targets`` (N, K), oldest first.

        K is that of the bank, or more where an institution has joined since.
        """
        wider = targets.shape[1] - self._targets.shape[1]
        self._targets = F.pad(self._targets, (0, max(0, wider)))
        self._targets[self._order(len(self))] = F.pad(targets, (0, max(0, -wider))).to(self.device)

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """``count`` samples with replacement: images (B, C, H, W) uint8 and targets (B, K).

        By question: at most ``count`` of one, each once.
        """
        ends = self._times[: len(self)].cumsum(0)
        index = torch.randint(int(ends[-1]), (1 if self._by_question else count,), generator=rng)
        index = torch.searchsorted(ends, index, right=True)
        if self._by_question:
            together = self._question[: len(self)] == self._question[index]
            among = (together & (self._times[: len(self)] > 0)).nonzero()[:, 0]
            index = among[torch.randperm(len(among), generator=rng)[:count]]
        index = index.to(self.device)
        return self._images[index], self._targets[index]

    def draw_question(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """All samples of one question, of a bank of whole ones; longer ones are drawn oftener.

        (B, C, H, W) uint8 and their targets (B, K), in the order in which they were asked about.
        """
        ends = self._times[: len(self)].cumsum(0)
        drawn = torch.searchsorted(
            ends, torch.randint(int(ends[-1]), (1,), generator=rng), right=True
        )
        together = self._question[: len(self)] == self._question[drawn]
        index = together.nonzero()[:, 0].to(self.device)
        return self._images[index], self._targets[index]

    @property
    def learned(self) -> Tensor:
        """(M,) places in `images` of what is drawn, M <= N: all but what is held back."""
        return self._times[: len(self)].nonzero().flatten()

    def held_back(self, most: int) -> tuple[Tensor, Tensor]:
        """The ``most`` latest samples that are never drawn, oldest first.

        (M, C, H, W) uint8 and their targets (M, K), on the bank's device.
        """
        order = self._never_drawn(most).to(self.device)
        return self._images[order], self._targets[order]

    def comparable(self, most: int) -> list[Tensor]:
        """Which of ``held_back(most)`` may be compared: places, (m,) of each question, or of all.

        All together where targets of several questions have one meaning.
        """
        question = self._question[self._never_drawn(most)]
        if not self._by_question:
            return [torch.arange(len(question))]
        numbers = sorted(set(question.tolist()))
        return [(question == number).nonzero()[:, 0] for number in numbers]

    def held_back_sizes(self, most: int) -> list[int]:
        """How many of `held_back` are of each question; empty where questions are not whole."""
        if not self._whole:
            return []
        numbers = self._question[self._never_drawn(most)].tolist()
        return [len(list(each)) for _, each in groupby(numbers)]

    def _never_drawn(self, most: int) -> Tensor:
        order = self._order(len(self)).cpu()
        found = order[self._times[order] == 0]
        latest = found[-most:]
        if self._whole and len(latest) < len(found):
            # The first question of these may have lost rows, and is nothing without them.
            cut = self._question[found[-most - 1]]
            latest = latest[self._question[latest] != cut]
        return latest

    def state(self) -> State:
        """Images, targets, and the keys of everything that was ever seen."""
        return State(
            {
                "images": self.images.to("cpu", copy=True),
                "targets": self.targets.to("cpu", copy=True),
                "times": self._times[: len(self)].clone(),
                "question": self._question[: len(self)].clone(),
                "met": torch.from_numpy(self._seen.keys.view(np.int64).copy()),
            },
            {"added": self._added, "questions": self._questions},
        )

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken; all arguments are the same as then."""
        self._images = state.tensors["images"].to(self.device, copy=True)
        self._targets = state.tensors["targets"].to(self.device, copy=True)
        self._times = state.tensors["times"].clone()
        self._question = state.tensors["question"].clone()
        self._questions = int(state.numbers["questions"])
        self._seen = SeenSamples(state.tensors["met"].numpy().view(np.uint64))
        self._added = int(state.numbers["added"])

    def _order(self, count: int) -> Tensor:
        """Where the last ``count`` lie, oldest first."""
        order = torch.arange(self._added - count, self._added) % max(len(self._images), 1)
        return order.to(self.device)

    def _reserve(self, count: int, images: Tensor, targets: Tensor) -> None:
        """Room for ``count`` images in all, as far as the capacity goes; doubles when it grows."""
        wanted = count if self.capacity is None else min(count, self.capacity)
        if wanted <= len(self._images) and targets.shape[1] <= self._targets.shape[1]:
            return
        room = max(wanted, 2 * len(self._images), 1024)
        if self.capacity is not None:
            room = min(room, self.capacity)
        size = len(self)
        kept_images, kept_targets, times = self.images, self.targets, self._times[:size]
        question = self._question[:size]
        self._images = torch.empty(room, *images.shape[1:], dtype=torch.uint8, device=self.device)
        # Whoever joins with an embedding of its own widens the targets.
        width = max(targets.shape[1], kept_targets.shape[1])
        self._targets = torch.zeros(room, width, device=self.device)
        self._times = torch.ones(room, dtype=torch.long)
        self._question = torch.zeros(room, dtype=torch.long)
        if size:
            self._images[:size] = kept_images
            self._targets[:size, : kept_targets.shape[1]] = kept_targets
            self._times[:size], self._question[:size] = times, question
