"""Every method, by every gradient that it can be told to use, learns more than noise teaches."""

import inspect
from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from fedkd.client.vault.training.settings import SupervisedSettings
from fedkd.client.vault.training.supervised import train_teacher
from fedkd.core.earlier_student import TeacherCards
from fedkd.data.dataset import Dataset
from fedkd.data.datasets import open_data
from fedkd.loop import Distillation, Plan, drive
from fedkd.losses import cross_entropy
from fedkd.methods import METHODS, Method, cudfkd, make, ways
from fedkd.models import FrozenStudent, InProcess, build_network
from fedkd.procedural import build_priors
from fedkd.protocol import Answers, Ask, Request, as_float
from fedkd.server.run.public_data_loading import load_public_images
from fedkd.synthesis import OutputDiversified, TrainedGenerator
from tests.support.grown_runs import earlier_student_for, put_beside

BUDGET, STEPS = 2000, 200


def must_be_finite(optimiser: torch.optim.Optimizer, *_: object) -> None:
    """Of student and generator alike."""
    for group in optimiser.param_groups:
        assert all(bool(p.grad.isfinite().all()) for p in group["params"])


def trains(method: Method) -> bool:
    """Whether a generator of it learns."""
    specs = (spec for spec, _ in method.sources.values())
    return any(isinstance(spec, TrainedGenerator | OutputDiversified) for spec in specs)


def with_junk(images: Tensor) -> Tensor:
    """Each of ``images``, shifted in nine ways, and noise: more than are asked."""
    shifted = [images.roll((y, x), (2, 3)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    noise = torch.randint(
        *(0, 256, (BUDGET // 2, *images.shape[1:])),
        generator=torch.Generator().manual_seed(0),
        dtype=torch.uint8,
    )
    return torch.cat([*shifted, noise])


class Digits:
    """Two institutions with half of the digits each."""

    def __init__(self) -> None:
        self.data: Dataset = open_data("digits")
        teachers, counts = {}, {}
        for index, name in enumerate(("east", "west")):
            images, labels = self.data.train_images[index::2], self.data.train_labels[index::2]
            teachers[name] = train_teacher("cnn", images, labels, 10, SupervisedSettings(4), index)
            counts[name] = labels.bincount(minlength=10).tolist()
        self.networks = teachers
        self.at_hand = InProcess(teachers, self.data.shape, 10, counts)

    def learned(self, method: Method, *names: str) -> tuple[float, list[Request]]:
        """Accuracy of a student that asked about these priors, and what was asked."""
        asked: list[Request] = []

        def put(request: Request) -> Answers:
            asked.append(request)
            answers = self.at_hand.answer(request)
            for reply in answers.values():
                assert reply.gradient is None or bool(reply.gradient.isfinite().all())
            return answers

        student = build_network("cnn", 10, self.data.shape, 0)
        plan = Plan(BUDGET, 64, STEPS, student_batch=64, learning_rate=5e-3)
        public = None
        if method.needs.public_data:
            public = load_public_images("typeset-digits", self.data.shape)
            if len(method.sources) == 1:  # nothing else is asked: more of them, and junk
                public = with_junk(public)
        earlier = self.earlier_for(method)
        loop = Distillation(
            *(student, method, TeacherCards(earlier, self.at_hand.cards), plan),
            build_priors(*names),
            public=public,
            earlier=earlier,
        ).requests()
        watching = register_optimizer_step_pre_hook(must_be_finite)
        try:
            distilled = drive(loop, put_beside(earlier, put))
        finally:
            watching.remove()
        assert distilled.asked == BUDGET
        assert bool(distilled.generator_steps) == trains(method)
        return self.accuracy(student), asked

    def earlier_for(self, method: Method) -> FrozenStudent | None:
        """One of the teachers, as if it had been distilled before."""
        network = next(iter(self.networks.values())).module
        return earlier_student_for(method, network, tuple(map(str, range(10))), self.data.shape)

    def accuracy(self, student: nn.Module) -> float:
        with torch.no_grad():
            decided = student(as_float(self.data.test_images)).argmax(1)
        return float((decided == self.data.test_labels).float().mean())


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


@pytest.fixture(scope="module")
def control(digits: Digits) -> dict[bool, float]:
    """What is learned from uniform noise: of scores, and of decisions alone (True)."""
    losses = {False: "kl", True: "cross_entropy"}
    return {
        hard: digits.learned(cudfkd(distillation_loss=loss), "noise")[0]
        for hard, loss in losses.items()
    }


GENTLE = {
    "distillation_loss": "kl",
    "balance_weight": 1.0,
    "adversarial_stop": 5.0,
    "adversarial_ceiling": 5.0,
    "latent": 32,
    "warm_up": 0.3,
    "generated": 0.5,
}


OWN: dict[str, dict[str, object]] = {
    "dip_kd": {"distillation_loss": "cross_entropy"},
    "deepinversion": {"steps_per_batch": 5, "flips": False},
    "ideal": {"distillation_loss": "cross_entropy", "generator_steps": 10, "latent": 256},
    "disguide": {"generator_steps": 10, "generator_rate": 1e-3},
    "fast_dfkd": {"temperature": 4.0, "flips": False},
    "cmi": {"temperature": 4.0, "flips": False, "steps_per_batch": 5},
    "dense": {"steps_per_batch": 5},
    "co_boosting": {"steps_per_batch": 5},
    "zskd": {"steps_per_batch": 5, "generator_rate": 0.05},
}
"""What belongs to a paper so much that it is not itself without."""


ELSEWHERE = {
    "dfkd_regression": "fedkd/methods/test_dfkd_regression.py",
    "embed_distill": "simulations/engines/test_embeddings.py",
    "df_gr_dt_id": "simulations/engines/test_grown_runs.py",
}
"""Methods without classes, or with a generator that learns from an earlier student alone; and their
tests."""


def battery() -> Iterator[tuple[str, dict[str, object]]]:
    """Every method with every gradient that it can be told to use."""
    for name, factory in METHODS.items():
        if name in ELSEWHERE:
            continue
        known = inspect.signature(factory).parameters
        for gradient in ways(name):
            wishes = {**GENTLE, "gradient": gradient, "bn_weight": float(gradient == "pull_back")}
            wishes |= OWN.get(name, {})
            if name == "cudfkd" and gradient == "student":
                wishes["adversarial_stop"] = 0.0  # it disagrees with itself about nothing
            yield name, {key: value for key, value in wishes.items() if key in known}


@pytest.mark.parametrize(
    ("name", "arguments"), battery(), ids=lambda x: x.get("gradient") if isinstance(x, dict) else x
)
def test_it_asks_what_it_declares_stays_finite_and_beats_noise(
    name: str, arguments: Mapping[str, object], digits: Digits, control: dict[bool, float]
) -> None:
    """In the mixed setting: priors ask first, and half of the questions after that.

    A generator that asks everything from the start, as in DAFL, ZSKT, DFAD and DFME, does not beat
    noise within so few questions and steps. That a method beats noise here says that its generator
    does not spoil what the priors teach, not that it teaches more.
    """
    method = make(name, arguments)
    accuracy, asked = digits.learned(method)
    for request in asked:
        if isinstance(request, Ask):
            assert request.signals <= set(method.needs.signals)
        else:
            assert method.gradient.pulls_back
            assert all(
                each.cotangents.keys() <= method.needs.signals.keys() for each in request.values()
            )
    assert accuracy > control[method.loss is cross_entropy] + 0.10
