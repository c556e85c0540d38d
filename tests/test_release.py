"""The door lets out what the policy names, counts before it answers, and tells no secret."""

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from client.institution import Institution, policy, simulated
from client.release import Door
from client.teach import TeachSettings
from client.vault import Holding, Vault
from fedkd.errors import SettingsError
from fedkd.experiment import parse
from fedkd.models import build
from fedkd.privacy.policy import Policy
from fedkd.signals import Ask, Card, PullBack, Reason, Refusal, Reply, Signal
from fedkd.teacher import ModuleTeacher, Teacher

LOGITS, BN_GAP, FEATURES = Signal.LOGITS, Signal.BN_GAP, Signal.FEATURES
EVERYTHING = frozenset(Signal)
K, SHAPE, D = 3, (1, 4, 4), 32
SECRET = "patient 4711"
NETWORK = build("cnn", K, SHAPE, 0).eval()
TRUTH = ModuleTeacher(NETWORK, K)
OPEN = Policy(EVERYTHING, pull_back=True)


class Watched:
    """The real teacher; notes what reaches it, and fails in ways that speak of private things."""

    classes, signals, differentiable = K, TRUTH.signals, True

    def __init__(self, fate: str = "") -> None:
        self.fate = fate
        self.seen: list[Tensor] = []

    def ask(self, images: Tensor, signals: frozenset[Signal]) -> dict[Signal, Tensor]:
        self.seen.append(images)
        self._raise()
        said = TRUTH.ask(images, EVERYTHING)  # more than was asked for
        return {s: self._spoil(value) for s, value in said.items()}

    def pull_back(self, images: Tensor, cotangents: Mapping[Signal, Tensor]) -> Tensor:
        self.seen.append(images)
        self._raise()
        return self._spoil(TRUTH.pull_back(images, cotangents))

    def _raise(self) -> None:
        if self.fate == "raise":
            raise RuntimeError(f"cannot read {SECRET}\nof the register")

    def _spoil(self, value: Tensor) -> Tensor:
        bad = {"nan": float("nan"), "infinite": float("-inf")}
        return value + bad[self.fate] if self.fate in bad else value


def door(policy: Policy = OPEN, teacher: Teacher = TRUTH) -> Door:
    card = Card("north", K, SHAPE, policy.signals, policy.pull_back, policy.samples)
    return Door(policy, teacher, card)


def images(count: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *SHAPE), generator=generator, dtype=torch.uint8)


def ask(count: int = 4, *signals: Signal, exact: bool = False) -> Ask:
    return Ask(images(count), frozenset(signals or (LOGITS,)), exact)


def pull(count: int = 4, *signals: Signal) -> PullBack:
    shapes = {LOGITS: (count, K), BN_GAP: (), FEATURES: (count, D)}
    return PullBack(images(count), {s: torch.ones(shapes[s]) for s in signals or (LOGITS,)})


def reason(said: Reply | Refusal) -> Reason:
    assert isinstance(said, Refusal), said
    assert "\n" not in said.text
    assert "4711" not in said.text
    return said.reason


# --- what leaves


def test_what_leaves_is_what_the_teacher_says_in_the_type_that_travels() -> None:
    right = TRUTH.ask(images(), EVERYTHING)
    plain, exact = (door().answer(ask(4, *Signal, exact=e)) for e in (False, True))
    assert isinstance(plain, Reply)
    assert isinstance(exact, Reply)
    for signal in (LOGITS, FEATURES):
        assert torch.equal(plain.signals[signal], right[signal].half())
        assert torch.equal(exact.signals[signal], right[signal])
    assert torch.equal(plain.signals[BN_GAP], right[BN_GAP])
    pulled = door().answer(pull(4, *Signal))
    assert isinstance(pulled, Reply)
    assert pulled.signals == {}
    assert torch.equal(pulled.gradient, TRUTH.pull_back(images(), pull(4, *Signal).cotangents))


def test_a_teacher_that_says_too_much_is_cut_short_at_the_door() -> None:
    said = door(teacher=Watched()).answer(ask(4, LOGITS))
    assert isinstance(said, Reply)
    assert set(said.signals) == {LOGITS}
    assert said.gradient is None


@pytest.mark.parametrize("request_", [ask(4, BN_GAP), ask(4, LOGITS, BN_GAP), pull(4, BN_GAP)])
def test_a_signal_that_the_policy_does_not_name_is_forbidden(request_: Ask | PullBack) -> None:
    teacher = Watched()
    closed = door(Policy(frozenset({LOGITS}), pull_back=True), teacher)
    assert reason(closed.answer(request_)) is Reason.FORBIDDEN
    assert closed.tally.samples == 0
    assert teacher.seen == []


def test_gradients_are_forbidden_unless_the_policy_names_them() -> None:
    assert reason(door(Policy()).answer(pull())) is Reason.FORBIDDEN
    assert isinstance(door(Policy(pull_back=True)).answer(pull()), Reply)


# --- how much


def test_samples_are_counted_before_the_teacher_is_asked() -> None:
    at_ask: list[int] = []

    class Curious(Watched):
        def _raise(self) -> None:
            at_ask.append(counted.tally.samples)

    counted = door(teacher=Curious())
    counted.answer(ask(4))
    counted.answer(pull(3))
    assert at_ask == [4, 7]
    assert (counted.tally.asked, counted.tally.pulled_back, counted.tally.refused) == (4, 3, 0)


def test_beyond_the_cap_nothing_is_answered_and_nothing_is_charged() -> None:
    teacher = Watched()
    capped = door(replace(OPEN, samples=10), teacher)
    assert isinstance(capped.answer(ask(6)), Reply)
    said = capped.answer(pull(5))
    assert reason(said) is Reason.SPENT
    assert said.text == "asked about 5 images, 4 of 10 are left"
    assert isinstance(capped.answer(pull(4)), Reply)
    assert reason(capped.answer(ask(1))) is Reason.SPENT
    assert (capped.tally.samples, capped.tally.refused) == (10, 2)
    assert [len(x) for x in teacher.seen] == [6, 4]


def test_a_batch_that_is_too_large_is_refused_uncharged() -> None:
    small = door(replace(OPEN, largest_batch=5))
    assert reason(small.answer(ask(6))) is Reason.TOO_LARGE
    assert isinstance(small.answer(ask(5)), Reply)
    assert small.tally.samples == 5


def test_threads_together_do_not_get_past_the_cap() -> None:
    class Slow(Policy):
        def objection(self, request: Ask | PullBack, spent: int) -> Refusal | None:
            found = super().objection(request, spent)
            time.sleep(0.001)  # another thread may go through here meanwhile
            return found

    capped = door(Slow(EVERYTHING, samples=100))
    start = threading.Barrier(8)

    def insist(_: int) -> int:
        start.wait(10)
        return sum(isinstance(capped.answer(ask(3)), Reply) for _ in range(10))

    with ThreadPoolExecutor(8) as pool:
        answered = sum(pool.map(insist, range(8)))
    assert answered == 33
    assert (capped.tally.asked, capped.tally.refused) == (99, 80 - 33)


# --- what makes no sense


def floats(value: float) -> Tensor:
    odd = torch.full((4, *SHAPE), 0.5)
    odd[3, 0, 0, 0] = value
    return odd


@pytest.mark.parametrize(
    "odd",
    [
        floats(float("nan")),
        floats(float("inf")),
        floats(1.001),
        floats(-0.001),
        images(4).short(),
        images(4).bool(),
        images(0),
        images(4)[:, :, :3],
        images(4).expand(4, 3, 4, 4),
        images(4)[0],
        images(4)[None],
        torch.tensor(0.5),
    ],
)
def test_malformed_images_are_refused_uncharged(odd: Tensor) -> None:
    teacher = Watched()
    entry = door(teacher=teacher)
    count = len(odd) if odd.dim() else 1
    for request in (Ask(odd), PullBack(odd, {LOGITS: torch.ones(count, K)})):
        assert reason(entry.answer(request)) is Reason.MALFORMED
    assert (entry.tally.samples, entry.tally.refused) == (0, 2)
    assert teacher.seen == []


@pytest.mark.parametrize(
    "cotangents",
    [
        {},
        {LOGITS: torch.ones(4, K + 1)},
        {LOGITS: torch.ones(3, K)},
        {LOGITS: torch.ones(K)},
        {LOGITS: torch.ones(())},
        {LOGITS: torch.full((4, K), float("nan"))},
        {LOGITS: torch.full((4, K), float("inf"))},
        {LOGITS: torch.ones(4, K, dtype=torch.complex64)},
        {BN_GAP: torch.ones(4)},
        {BN_GAP: torch.tensor(float("nan"))},
        {FEATURES: torch.ones(())},
        {FEATURES: torch.ones(4)},
        {FEATURES: torch.ones(3, D)},
        {FEATURES: torch.ones(4, D, 1)},
        {LOGITS: torch.ones(4, K), BN_GAP: torch.ones(1)},
    ],
)
def test_malformed_cotangents_are_refused_uncharged(cotangents: dict[Signal, Tensor]) -> None:
    teacher = Watched()
    entry = door(teacher=teacher)
    assert reason(entry.answer(PullBack(images(4), cotangents))) is Reason.MALFORMED
    assert entry.tally.samples == 0
    assert teacher.seen == []


def test_a_question_for_no_signal_is_malformed() -> None:
    assert reason(door().answer(Ask(images(4), frozenset()))) is Reason.MALFORMED


def test_the_edges_of_the_unit_range_are_inside_it() -> None:
    for value in (0.0, 1.0):
        assert isinstance(door().answer(Ask(floats(value))), Reply)


# --- what goes wrong behind the door


@pytest.mark.parametrize("fate", ["raise", "nan", "infinite"])
@pytest.mark.parametrize("request_", [ask(4), ask(4, *Signal, exact=True), pull(4, *Signal)])
def test_a_teacher_that_fails_is_charged_and_says_nothing(
    fate: str, request_: Ask | PullBack
) -> None:
    broken = door(teacher=Watched(fate))
    said = broken.answer(request_)
    assert reason(said) is Reason.FAILED
    assert said.text == "the teacher could not answer"
    assert (broken.tally.samples, broken.tally.refused) == (4, 1)


def test_a_huge_logit_leaves_as_the_largest_that_travels() -> None:
    class Loud(Watched):
        def _spoil(self, value: Tensor) -> Tensor:
            return value * 0 + 1e30

    plain = door(teacher=Loud()).answer(ask(4))
    assert isinstance(plain, Reply)
    assert bool((plain.signals[LOGITS] == 65504).all())


# --- whatever may come

some_signals = st.sets(st.sampled_from(list(Signal))).map(frozenset)
policies = st.builds(
    Policy,
    signals=some_signals,
    pull_back=st.booleans(),
    samples=st.none() | st.integers(0, 20),
    largest_batch=st.integers(1, 6),
)
sizes = st.sampled_from([(n, *SHAPE) for n in range(8)]) | st.lists(st.integers(0, 4), max_size=5)
some_dtypes = st.sampled_from(
    [torch.uint8] * 4 + [torch.float32] * 4 + [torch.float16, torch.float64, torch.int64]
)
values = st.sampled_from([0.0, 0.3, 1.0] * 4 + [2.0, -1.0, float("nan"), float("inf")])


@st.composite
def tensors(draw: st.DrawFn, sizes: st.SearchStrategy, dtypes: st.SearchStrategy) -> Tensor:
    tensor = torch.full(tuple(draw(sizes)), 0.5)
    if tensor.numel():
        tensor.view(-1)[draw(st.integers(0, tensor.numel() - 1))] = draw(values)
    dtype = draw(dtypes)
    return tensor.to(dtype) if dtype.is_floating_point else tensor.nan_to_num(1).to(dtype)


@st.composite
def requests(draw: st.DrawFn) -> Ask | PullBack:
    asked = draw(tensors(sizes, some_dtypes))
    signals = draw(some_signals)
    if draw(st.booleans()):
        return Ask(asked, signals, draw(st.booleans()))
    count = len(asked) if asked.dim() else 0
    right = {LOGITS: (count, K), BN_GAP: (), FEATURES: (count, D)}
    wrong = st.lists(st.integers(0, 5), max_size=3)
    return PullBack(
        asked,
        {
            signal: draw(
                tensors(st.sampled_from([right[signal]] * 9) | wrong, st.just(torch.float32))
            )
            for signal in sorted(signals)
        },
    )


@given(policies, st.lists(st.tuples(requests(), st.sampled_from(["", "", "raise", "nan"]))))
@settings(max_examples=120, deadline=None)
def test_whatever_comes_only_what_the_policy_names_leaves_and_all_is_counted(
    policy: Policy, visits: list[tuple[Ask | PullBack, str]]
) -> None:
    teacher = Watched()
    entry = door(policy, teacher)
    charged = refused = 0
    for request, teacher.fate in visits:
        said = entry.answer(request)
        answered_or_failed = isinstance(said, Reply) or reason(said) is Reason.FAILED
        charged += len(request.images) if answered_or_failed else 0
        refused += isinstance(said, Refusal)
        assert (entry.tally.samples, entry.tally.refused) == (charged, refused)
        if isinstance(said, Reply):
            assert_within(policy, request, said)
    assert charged == sum(len(seen) for seen in teacher.seen)
    assert policy.samples is None or charged <= policy.samples


def assert_within(policy: Policy, request: Ask | PullBack, said: Reply) -> None:
    assert len(request.images) <= policy.largest_batch
    if isinstance(request, PullBack):
        assert policy.pull_back
        assert frozenset(request.cotangents) <= policy.signals
        assert said.signals == {}
        out = [said.gradient]
        assert said.gradient.shape == request.images.shape
    else:
        assert said.signals.keys() == request.signals <= policy.signals
        assert said.gradient is None
        out = list(said.signals.values())
    for tensor in out:
        assert bool(tensor.isfinite().all())
        assert not tensor.requires_grad


# --- the institution behind it


@pytest.fixture(scope="module")
def vault() -> Vault:
    return Vault.open(Holding(index=1, count=20, teach=TeachSettings(epochs=1)))


def test_a_card_tells_what_the_policy_releases_and_no_more(vault: Vault) -> None:
    reticent = Institution("north", vault, Policy())
    assert reticent.card == Card("north", 10, (1, 8, 8), frozenset({LOGITS}))
    frank = Institution(
        "south", vault, Policy(EVERYTHING, True, 50, 8, class_counts=True, scores=True)
    )
    assert frank.card == Card(
        "south", 10, (1, 8, 8), EVERYTHING, True, 50, 8, vault.class_counts, True
    )
    assert 0 < sum(vault.class_counts) < 1437


def test_a_student_is_scored_only_where_the_policy_says_so(vault: Vault) -> None:
    student = build("mlp", 10, (1, 8, 8), 0)
    assert Institution("north", vault, Policy()).score(student) is None
    assert Institution("north", vault, Policy(scores=True)).score(student) == vault.score(student)


def test_an_institution_answers_through_its_door(vault: Vault) -> None:
    north = Institution("north", vault, Policy(samples=5))
    shown = torch.zeros(5, 1, 8, 8, dtype=torch.uint8)
    assert isinstance(north.answer(Ask(shown)), Reply)
    assert reason(north.answer(Ask(shown))) is Reason.SPENT
    assert reason(north.answer(Ask(shown[:1], frozenset({BN_GAP})))) is Reason.FORBIDDEN
    assert north.tally == {"asked": 5, "pulled_back": 0, "refused": 2}


def test_simulated_institutions_obey_the_policy_of_their_experiment(tmp_path: Path) -> None:
    wishes = {"signals": ["logits", "bn_gap"], "pull_back": True, "samples": 9, "scores": False}
    experiment = parse({"name": "x", "institutions": {"count": 20, "epochs": 1}, "policy": wishes})
    card = simulated(experiment, 7, tmp_path).card
    assert (card.name, card.signals, card.pull_back) == ("institution-07", {LOGITS, BN_GAP}, True)
    assert (card.samples, card.scores) == (9, False)
    assert card.class_counts is not None
    with pytest.raises(SettingsError, match="names 'logit'; choose among logits"):
        policy(parse({"name": "x", "policy": {"signals": ["logit"]}}))
