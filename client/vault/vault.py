"""Vault interface: what an institution may ask of its private data and teacher.

A vault prints and logs nothing. Its errors name files and settings, never contents.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from fedkd.client.ledger.dataset_privacy_spending import DpTraining
from fedkd.models import Teacher
from fedkd.protocol import Column, Guarantee, NamedTask, Number
from fedkd.tasks import NumberSums, TaskCounts


@dataclass(frozen=True, eq=False)
class LabelledSamples:
    """Private samples with their labels. Its printed form shows no content."""

    samples: Tensor = field(repr=False)
    """(N, C, H, W) as the teacher reads them."""
    labels: Tensor = field(repr=False)
    """(N,) int64, places among the teacher's classes; of numbers (N, K) shares of the ranges; of
    several tasks (N, M) int64."""


class Vault(ABC):
    """An institution's private data and teacher, each opened when it is first needed.

    Every property and method raises `DataError` or `SettingsError` where that cannot be opened.
    """

    @property
    @abstractmethod
    def classes(self) -> int:
        """K."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """(D,) of the rows that the teacher reads; empty: it reads images."""
        return ()

    @property
    def numbers(self) -> tuple[Number, ...]:
        """(K,) that the teacher predicts; empty: it predicts classes."""
        return ()

    @property
    def tasks(self) -> tuple[NamedTask, ...]:
        """Of several tasks of a federation, those of the teacher; empty: its classes are all."""
        return ()

    @property
    def embedding(self) -> bool:
        """Whether the teacher outputs an embedding K wide; else it predicts."""
        return False

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...] | None:
        """(K,) names of the teacher's outputs; None where they are numbers."""

    @property
    @abstractmethod
    def class_counts(self) -> tuple[int, ...] | None:
        """Training samples of each class, (K,); None where unknown. To release them discloses."""

    @property
    @abstractmethod
    def scores(self) -> bool:
        """Whether there are test data to evaluate a student on."""

    @property
    @abstractmethod
    def teacher(self) -> Teacher:
        """The teacher, ready to be asked."""

    @property
    @abstractmethod
    def fingerprints(self) -> tuple[bytes, ...]:
        """Digests of the training samples, labels left out; none where the samples are unknown.

        With a sample and these, anybody can tell whether it is among them: for the ledger alone.
        """

    @property
    @abstractmethod
    def dp_training(self) -> DpTraining | None:
        """The training with differential privacy that the teacher comes from; None without one.

        For a cached teacher it is past. Otherwise it begins when `teacher` is first read, so that
        it can be charged before.
        """

    @property
    def earlier_dp_trainings(self) -> tuple[DpTraining, ...]:
        """Trainings of the models that ``dp_training`` starts from; the ledger charges them too."""
        return ()

    @property
    @abstractmethod
    def guarantee(self) -> Guarantee | None:
        """The DP guarantee of the teacher's training; None where there is none."""

    @property
    def training_samples(self) -> LabelledSamples | None:
        """What the teacher was trained on, for an audit by the owner; None where unknown."""
        return None

    @property
    def test_samples(self) -> LabelledSamples | None:
        """What it was not trained on, for an audit by the owner; None where there are none."""
        return None

    @abstractmethod
    def score(self, model: nn.Module, classes: Sequence[str] | None = None) -> tuple[int, int]:
        """Evaluate a model on the private test data: (correct, of how many).

        The test samples of a shared data set are divided among the institutions that know their
        class.

        Args:
            model: (B, C, H, W) float in [0, 1] -> (B, K). It is not changed.
            classes: names of its outputs; None: they are the institution's own classes. Samples of
                a class that the model has no output for count as wrong.

        Of an embedding a sample is correct where the test sample that is most alike has its class.
        """

    def task_counts(
        self, model: nn.Module, names: Sequence[str] | None = None
    ) -> TaskCounts | None:
        """Evaluate a model of several tasks on the private test data; None without any.

        Args:
            model: (B, C, H, W) float in [0, 1] -> (B, K). It is not changed.
            names: ``task: class`` of its outputs; None: they are the institution's own tasks.

        Returns:
            Counts in the order of the model's tasks, see `fedkd.tasks.released_scores`.

        Raises:
            DataError: the model lacks a task that the test data have.
        """
        return None

    def number_sums(
        self, model: nn.Module, names: Sequence[str] | None = None
    ) -> NumberSums | None:
        """Evaluate a model that predicts numbers on the private test data; None without any.

        Args:
            model: (B, 1, 1, D) float in [0, 1] -> (B, K) shares of the ranges. It is not changed.
            names: of its outputs; None: they are the institution's own numbers.

        Returns:
            Sums in the order of ``names``, see `fedkd.tasks.released_scores`.

        Raises:
            DataError: the model lacks a number that the test data have.
        """
        return None
