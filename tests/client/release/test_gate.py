"""The gate releases what the policy names, counts before it answers, and tells no secret."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import datetime, time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedkd.client.institution import Institution, simulated_institution, simulated_policy
from fedkd.client.ledger.hash_chain import LedgerTotals
from fedkd.client.ledger.ledger import Ledger
from fedkd.client.release.gate import ReleaseGate
from fedkd.client.release.mode_table import build_release_mode
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.client.vault.training.settings import SupervisedSettings
from fedkd.client.vault.vault import Vault
from fedkd.client.vault.vault_settings import Assets
from fedkd.errors import DataError, SettingsError
from fedkd.experiment import parse_experiment
from fedkd.models import ModuleTeacher, Teacher, build_network, by_batch_statistics
from fedkd.privacy import Budget, Policy
from fedkd.privacy.release_policy import LARGEST_WHOLE_PULL_BACK
from fedkd.protocol import (
    RECIPE_VERSION,
    Ask,
    Card,
    PullBack,
    Reason,
    Refusal,
    Reply,
    Signal,
    digest,
    rounded,
)

LOGITS, BN_GAP, FEATURES = Signal.LOGITS, Signal.BN_GAP, Signal.FEATURES
RELATIONS, ACTIVATION = Signal.RELATIONS, Signal.ACTIVATION
EVERYTHING = frozenset(Signal)
K, SHAPE, D = 3, (1, 4, 4), 32
SECRET = "patient 4711"
NETWORK = build_network("cnn", K, SHAPE, 0).eval()
TRUTH = ModuleTeacher(NETWORK, K)
OPEN = Policy(EVERYTHING, pull_back=True)
NOON = datetime(2026, 3, 1, 12).astimezone()


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
        match self.fate:
            case "nan" | "inf" | "-inf":
                return value + float(self.fate)
            case "shape":
                return value[None]
            case "short":
                return value[:-1] if value.dim() else value[None]
            case "type":
                return value.double()
            case "graph":
                return value.clone().requires_grad_()
        return value


def gate(
    policy: Policy = OPEN, teacher: Teacher = TRUTH, clock: Callable[[], datetime] = lambda: NOON
) -> ReleaseGate:
    shape = policy.shape or SHAPE
    card = Card("north", K, shape, policy.signals, policy.pull_back, policy.samples)
    return ReleaseGate(
        policy, build_release_mode(policy, teacher, None), card, Ledger(None, clock=clock)
    )


def images(count: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *SHAPE), generator=generator, dtype=torch.uint8)


def ask(count: int = 4, *signals: Signal, exact: bool = False) -> Ask:
    return Ask(images(count), frozenset(signals or (LOGITS,)), exact)


def shapes_of(count: int) -> dict[Signal, tuple[int, ...]]:
    """Of every signal of so many images."""
    whole = {BN_GAP: (), ACTIVATION: (), RELATIONS: (count, count)}
    return {LOGITS: (count, K), FEATURES: (count, D), **whole}


def pull(count: int = 4, *signals: Signal) -> PullBack:
    shapes = shapes_of(count)
    return PullBack(images(count), {s: torch.ones(shapes[s]) for s in signals or (LOGITS,)})


def reason(said: Reply | Refusal) -> Reason:
    assert isinstance(said, Refusal), said
    assert "\n" not in said.text
    assert "4711" not in said.text
    return said.reason


# --- what leaves


def test_what_leaves_is_what_the_teacher_says_in_the_type_that_travels() -> None:
    right = TRUTH.ask(images(), EVERYTHING)
    plain, exact = (gate().answer(ask(4, *Signal, exact=e)) for e in (False, True))
    assert isinstance(plain, Reply)
    assert isinstance(exact, Reply)
    assert torch.equal(plain.signals[LOGITS], rounded(right[LOGITS], LOGITS, exact=False))
    assert torch.equal(plain.signals[FEATURES], right[FEATURES].half())
    assert torch.equal(plain.signals[RELATIONS], rounded(right[RELATIONS], RELATIONS, exact=False))
    for signal in (LOGITS, FEATURES, RELATIONS):
        assert torch.equal(exact.signals[signal], right[signal])
    assert torch.equal(plain.signals[BN_GAP], right[BN_GAP])
    pulled = gate().answer(pull(4, *Signal))
    assert isinstance(pulled, Reply)
    assert pulled.signals == {}
    assert torch.equal(pulled.gradient, TRUTH.pull_back(images(), pull(4, *Signal).cotangents))


def test_a_teacher_that_says_too_much_is_cut_short_at_the_release_gate() -> None:
    said = gate(teacher=Watched()).answer(ask(4, LOGITS))
    assert isinstance(said, Reply)
    assert set(said.signals) == {LOGITS}
    assert said.gradient is None


@pytest.mark.parametrize("request_", [ask(4, BN_GAP), ask(4, LOGITS, BN_GAP), pull(4, BN_GAP)])
def test_a_signal_that_the_policy_does_not_name_is_forbidden(request_: Ask | PullBack) -> None:
    teacher = Watched()
    closed = gate(Policy(frozenset({LOGITS}), pull_back=True), teacher)
    assert reason(closed.answer(request_)) is Reason.FORBIDDEN
    assert closed.totals.samples == 0
    assert teacher.seen == []


def test_gradients_are_forbidden_unless_the_policy_names_them() -> None:
    assert reason(gate(Policy()).answer(pull())) is Reason.FORBIDDEN
    assert isinstance(gate(Policy(pull_back=True)).answer(pull()), Reply)


# --- how much


def test_samples_are_counted_before_the_teacher_is_asked() -> None:
    at_ask: list[int] = []

    class Curious(Watched):
        def _raise(self) -> None:
            at_ask.append(counted.totals.samples)

    counted = gate(teacher=Curious())
    counted.answer(ask(4))
    counted.answer(pull(3))
    assert at_ask == [4, 7]
    assert counted.totals == LedgerTotals(asked=4, pulled_back=3)


def test_beyond_the_cap_nothing_is_answered_and_nothing_is_charged() -> None:
    teacher = Watched()
    capped = gate(replace(OPEN, samples=10), teacher)
    assert isinstance(capped.answer(ask(6)), Reply)
    said = capped.answer(pull(5))
    assert reason(said) is Reason.SPENT
    assert said.text == "asked about 5 images, 4 of 10 are left"
    assert isinstance(capped.answer(pull(4)), Reply)
    assert reason(capped.answer(ask(1))) is Reason.SPENT
    assert (capped.totals.samples, capped.totals.refused) == (10, 2)
    assert [len(x) for x in teacher.seen] == [6, 4]


def test_a_batch_that_is_too_large_is_refused_uncharged() -> None:
    small = gate(replace(OPEN, largest_batch=5))
    assert reason(small.answer(ask(6))) is Reason.TOO_LARGE
    assert isinstance(small.answer(ask(5)), Reply)
    assert small.totals.samples == 5


def test_a_gradient_through_many_images_as_one_is_refused_uncharged() -> None:
    """All their activations are in memory at once, where those of others are a few images'."""
    open_gate = gate(OPEN)
    many = torch.zeros(LARGEST_WHOLE_PULL_BACK + 1, *SHAPE, dtype=torch.uint8)
    for signal in (BN_GAP, ACTIVATION):
        request = PullBack(many, {signal: torch.tensor(1.0)})
        assert reason(open_gate.answer(request)) is Reason.TOO_LARGE
        assert isinstance(open_gate.answer(replace(request, images=many[1:])), Reply)
    rows = PullBack(many, {LOGITS: torch.zeros(len(many), K)})
    assert isinstance(open_gate.answer(rows), Reply)
    mixed = replace(rows, batch_statistics=True)
    statistics = gate(replace(OPEN, batch_statistics=True))
    assert reason(statistics.answer(mixed)) is Reason.TOO_LARGE
    assert open_gate.totals.samples == 2 * LARGEST_WHOLE_PULL_BACK + len(many)


def test_threads_together_do_not_get_past_the_cap() -> None:
    capped = gate(replace(OPEN, samples=100))
    start = threading.Barrier(8)

    def insist(thread: int) -> int:
        start.wait(10)
        asked = (Ask(images(3, 10 * thread + i)) for i in range(10))
        return sum(isinstance(capped.answer(each), Reply) for each in asked)

    with ThreadPoolExecutor(8) as pool:
        answered = sum(pool.map(insist, range(8)))
    assert answered == 33
    assert capped.totals == LedgerTotals(asked=99, refused=80 - 33)


def test_who_asks_again_is_answered_again_and_charged_once() -> None:
    teacher = Watched("raise")
    capped = gate(replace(OPEN, samples=4), teacher)
    assert reason(capped.answer(ask(4))) is Reason.FAILED
    teacher.fate = ""
    first, again = capped.answer(ask(4)), capped.answer(ask(4), "another:1")
    assert isinstance(first, Reply)
    assert isinstance(again, Reply)
    assert torch.equal(first.signals[LOGITS], again.signals[LOGITS])
    assert capped.totals == LedgerTotals(asked=4, refused=1)
    assert reason(capped.answer(ask(4, exact=True))) is Reason.SPENT


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
        floats(0.5).double(),
        floats(0.5).half(),
        floats(0.5).to_sparse(),
        floats(0.5).to("meta"),
        floats(0.5).to(torch.complex64),
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
    entry = gate(teacher=teacher)
    count = len(odd) if odd.dim() else 1
    for request in (Ask(odd), PullBack(odd, {LOGITS: torch.ones(count, K)})):
        assert reason(entry.answer(request)) is Reason.MALFORMED
    assert entry.totals.samples == 0
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
        {LOGITS: torch.ones(4, K, dtype=torch.float64)},
        {FEATURES: torch.ones(4, 0)},
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
    entry = gate(teacher=teacher)
    assert reason(entry.answer(PullBack(images(4), cotangents))) is Reason.MALFORMED
    assert entry.totals.samples == 0
    assert teacher.seen == []


def test_a_question_for_no_signal_is_malformed() -> None:
    assert reason(gate().answer(Ask(images(4), frozenset()))) is Reason.MALFORMED


def test_the_edges_of_the_unit_range_are_inside_it() -> None:
    for value in (0.0, 1.0):
        assert isinstance(gate().answer(Ask(floats(value))), Reply)


@pytest.mark.parametrize(
    "nonsense",
    [
        None,
        Ask(None),  # type: ignore[arg-type]
        Ask(images(4), None),  # type: ignore[arg-type]
        Ask(images(4), frozenset({"weights"})),  # type: ignore[arg-type]
        PullBack(images(4), None),  # type: ignore[arg-type]
        PullBack(images(4), {LOGITS: "gradient"}),  # type: ignore[dict-item]
        PullBack(images(4), {"weights": torch.ones(4, K)}),  # type: ignore[dict-item]
    ],
)
def test_nonsense_is_refused_and_nothing_is_raised(nonsense: Any) -> None:
    teacher = Watched()
    entry = gate(teacher=teacher)
    assert reason(entry.answer(nonsense)) in (Reason.MALFORMED, Reason.FORBIDDEN)
    assert entry.totals.samples == 0
    assert teacher.seen == []


def test_the_policy_says_which_pixels_are_taken() -> None:
    dim = gate(replace(OPEN, low=0.2, high=0.6))
    for value in (0.2, 0.4, 0.6):
        for shade in (torch.full((4, *SHAPE), value), torch.full((4, *SHAPE), round(255 * value))):
            shown = shade.to(torch.uint8) if value < shade.max() else shade
            assert isinstance(dim.answer(Ask(shown)), Reply)
    for outside in (floats(0.1999), floats(0.6001)):
        said = dim.answer(Ask(outside))
        assert said == Refusal(
            Reason.MALFORMED, "expected uint8 images, or float32 ones, in [0.2, 0.6]"
        )
    for byte in (50, 154):
        shown = torch.full((4, *SHAPE), byte, dtype=torch.uint8)
        assert reason(dim.answer(Ask(shown))) is Reason.MALFORMED


def test_the_policy_says_which_shape_is_taken() -> None:
    wide = gate(replace(OPEN, shape=(1, 4, 6)))
    assert isinstance(wide.answer(Ask(torch.zeros(2, 1, 4, 6))), Reply)
    assert reason(wide.answer(ask())) is Reason.MALFORMED


def test_the_policy_says_who_is_answered_and_when() -> None:
    policy = replace(OPEN, servers=frozenset({"hub:1"}), hours=(time(8), time(18)))
    assert isinstance(gate(policy).answer(ask(), "hub:1"), Reply)
    for stranger in ("", "hub:2", "HUB:1"):
        said = gate(policy).answer(ask(), stranger)
        assert said == Refusal(Reason.FORBIDDEN, "this server is not answered here")
    late = gate(policy, clock=lambda: NOON.replace(hour=20))
    assert reason(late.answer(ask(), "hub:1")) is Reason.CLOSED


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"signals": frozenset({"logit"})}, "signals names logit; choose among logits"),
        ({"samples": -1}, "samples = -1: expected an integer >= 0"),
        ({"samples": 2.5}, "samples = 2.5"),
        ({"samples": True}, "samples = True"),
        ({"samples_per_hour": -1}, "samples_per_hour = -1"),
        ({"largest_batch": 0}, "largest_batch = 0: expected an integer >= 1"),
        ({"largest_batch": None}, "largest_batch = None"),
        ({"hours": (time(8), time(8))}, "hours: expected two different"),
        ({"hours": (time(8), time(9, tzinfo=NOON.tzinfo))}, "hours: expected"),
        ({"hours": ("08:00", "18:00")}, "hours: expected"),
        ({"servers": frozenset({"hub"})}, "servers names 'hub': expected host:port"),
        ({"servers": frozenset({"hub:0"})}, "servers names 'hub:0'"),
        ({"servers": frozenset({":1"})}, "servers names ':1'"),
        ({"shape": (1, 0, 4)}, "shape = .1, 0, 4.: expected"),
        ({"shape": (4, 4)}, "shape = .4, 4.: expected"),
        ({"low": 0.5, "high": 0.5}, "expected 0 <= low < high <= 1"),
        ({"low": float("nan")}, "expected 0 <= low"),
        ({"high": 255.0}, "expected 0 <= low"),
        ({"mode": "laplace"}, "mode = 'laplace': choose one of none"),
    ],
)
def test_a_policy_that_cannot_be_is_none(words: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Policy(**words)


# --- what goes wrong behind the gate


FATES = ("raise", "nan", "inf", "-inf", "shape", "short", "type")


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("request_", [ask(4), ask(4, *Signal, exact=True), pull(4, *Signal)])
def test_a_teacher_that_fails_is_charged_and_says_nothing(
    fate: str, request_: Ask | PullBack
) -> None:
    broken = gate(teacher=Watched(fate))
    said = broken.answer(request_)
    assert reason(said) is Reason.FAILED
    assert said.text == "the teacher could not answer"
    assert (broken.totals.samples, broken.totals.refused) == (4, 1)


def test_no_graph_leaves_with_an_answer() -> None:
    for request_ in (ask(4, *Signal), ask(4, *Signal, exact=True), pull(4, *Signal)):
        said = gate(teacher=Watched("graph")).answer(request_)
        assert isinstance(said, Reply)
        assert_sound(request_, said)


def test_a_huge_logit_leaves_as_the_largest_that_travels() -> None:
    class Loud(Watched):
        def _spoil(self, value: Tensor) -> Tensor:
            return value * 0 + 1e30

    plain = gate(teacher=Loud()).answer(ask(4))
    assert isinstance(plain, Reply)
    assert bool((plain.signals[LOGITS] == 65504).all())


# --- whatever may come

some_signals = st.sets(st.sampled_from(list(Signal))).map(frozenset)
caps = st.none() | st.integers(0, 20)
policies = st.builds(
    Policy,
    signals=some_signals | st.just(EVERYTHING),
    pull_back=st.booleans(),
    samples=caps,
    largest_batch=st.integers(1, 6),
    samples_per_hour=caps,
    hours=st.sampled_from([None, None, (time(8), time(18)), (time(18), time(8))]),
    servers=st.sampled_from([None, None, frozenset({"a:1"})]),
    low=st.sampled_from([0.0, 0.0, 0.4]),
    high=st.sampled_from([1.0, 1.0, 0.6]),
)
sizes = st.sampled_from([(n, *SHAPE) for n in range(8)]) | st.lists(st.integers(0, 4), max_size=5)
some_dtypes = st.sampled_from(
    [torch.uint8] * 4 + [torch.float32] * 4 + [torch.float16, torch.float64, torch.int64]
)
values = st.sampled_from([0.0, 0.3, 0.5, 1.0] * 4 + [2.0, -1.0, float("nan"), float("inf")])


@st.composite
def tensors(draw: st.DrawFn, sizes: st.SearchStrategy, dtypes: st.SearchStrategy) -> Tensor:
    tensor = torch.full(tuple(draw(sizes)), 0.5)
    if tensor.numel():
        tensor.view(-1)[draw(st.integers(0, tensor.numel() - 1))] = draw(values)
    dtype = draw(dtypes)
    if dtype.is_floating_point:
        return tensor.to(dtype)
    return (255 * tensor.nan_to_num(1).clamp(0, 1)).to(dtype)


@st.composite
def requests(draw: st.DrawFn) -> Ask | PullBack:
    asked = draw(tensors(sizes, some_dtypes))
    signals = draw(some_signals | st.just(frozenset({LOGITS})))
    if draw(st.booleans()):
        return Ask(asked, signals, draw(st.booleans()))
    count = len(asked) if asked.dim() else 0
    right = shapes_of(count)
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


visits = st.tuples(
    requests(),
    st.sampled_from(["a:1", "a:1", "b:1", ""]),
    st.sampled_from(["", "graph"] * 4 + [*FATES]),
)


@given(policies, st.lists(visits, max_size=8), st.booleans())
@settings(max_examples=150, deadline=None)
def test_whatever_comes_only_what_the_policy_names_leaves_and_all_is_charged_once(
    policy: Policy, visits: list[tuple[Ask | PullBack, str, str]], again: bool
) -> None:
    teacher = Watched()
    entry = gate(policy, teacher)
    known: set[bytes] = set()
    charged = refused = shown = 0
    for request, server, teacher.fate in visits * (1 + again):
        said = entry.answer(request, server)
        refused += isinstance(said, Refusal)
        if isinstance(said, Reply) or reason(said) is Reason.FAILED:
            assert_allowed(policy, request, server)
            charged += 0 if digest(request) in known else len(request.images)
            shown += len(request.images)
            known.add(digest(request))
        if isinstance(said, Reply):
            assert teacher.fate in ("", "graph")
            assert_sound(request, said)
        elif said.reason is Reason.FAILED:
            assert teacher.fate in FATES
        assert (entry.totals.samples, entry.totals.refused) == (charged, refused)
    assert shown == sum(len(seen) for seen in teacher.seen)
    for cap in (policy.samples, policy.samples_per_hour):
        assert cap is None or charged <= cap
    entry._ledger.verify()


def assert_allowed(policy: Policy, request: Ask | PullBack, server: str) -> None:
    """It may reach the teacher."""
    asked = request.signals if isinstance(request, Ask) else frozenset(request.cotangents)
    assert asked
    assert asked <= policy.signals
    assert policy.pull_back or isinstance(request, Ask)
    assert policy.servers is None or server in policy.servers
    assert policy.hours != (time(18), time(8))
    shown = request.images
    assert 0 < len(shown) <= policy.largest_batch
    assert shown.shape[1:] == SHAPE
    assert shown.dtype in (torch.uint8, torch.float32)
    unit = shown / 255 if shown.dtype == torch.uint8 else shown
    assert bool(((unit >= policy.low) & (unit <= policy.high)).all())


def assert_sound(request: Ask | PullBack, said: Reply) -> None:
    """It says what was asked, no more, in the type that travels."""
    count = len(request.images)
    if isinstance(request, PullBack):
        assert said.signals == {}
        assert said.gradient is not None
        out = [(said.gradient, tuple(request.images.shape), torch.float32)]
    else:
        assert said.signals.keys() == request.signals
        assert said.gradient is None
        plain = torch.float32 if request.exact else torch.float16
        forms = {
            LOGITS: ((count, K), plain),
            BN_GAP: ((), torch.float32),
            FEATURES: ((count, D), plain),
            RELATIONS: ((count, count), plain),
            ACTIVATION: ((), torch.float32),
        }
        out = [(tensor, *forms[signal]) for signal, tensor in said.signals.items()]
    for tensor, shape, dtype in out:
        assert (tuple(tensor.shape), tensor.dtype) == (shape, dtype)
        assert bool(tensor.isfinite().all())
        assert not tensor.requires_grad


# --- the institution behind it


@pytest.fixture(scope="module")
def vault() -> Vault:
    return TrainedVault(Assets(index=1, count=20, training=SupervisedSettings(epochs=1)))


def test_a_card_tells_what_the_policy_releases_and_no_more(vault: Vault) -> None:
    reticent = Institution("north", vault, Policy())
    assert reticent.card == Card(
        *("north", 10, (1, 8, 8), frozenset({LOGITS})),
        recipes=RECIPE_VERSION,
        fedkd_version=version("fedkd"),
    )
    tells = Policy(EVERYTHING, True, 50, 8, class_counts=True, scores=True, recipes=False)
    frank = Institution("south", vault, tells)
    assert frank.card == Card(
        *("south", 10, (1, 8, 8), EVERYTHING, True, 50, 8, vault.class_counts, True),
        fedkd_version=version("fedkd"),
    )
    assert 0 < sum(vault.class_counts) < 1437


def test_a_student_is_scored_only_where_the_policy_says_so(vault: Vault) -> None:
    student = build_network("mlp", 10, (1, 8, 8), 0)
    assert Institution("north", vault, Policy()).score(student) is None
    assert Institution("north", vault, Policy(scores=True)).score(student) == vault.score(student)


def test_a_policy_says_how_many_students_are_scored(vault: Vault) -> None:
    north = Institution("north", vault, Policy(scores=True, examinations=2))
    students = [build_network("mlp", 10, (1, 8, 8), seed) for seed in range(3)]
    for student in (students[0], students[1], students[0]):
        assert north.score(student) == vault.score(student)
    said = north.score(students[2])
    assert isinstance(said, Refusal)
    assert said.reason is Reason.SPENT
    assert isinstance(north.score(students[0], [*"9876543210"]), Refusal), "another reading of it"
    assert north.totals == {"asked": 0, "pulled_back": 0, "refused": 2, "examined": 2}
    with pytest.raises(SettingsError, match="examinations"):
        Policy(examinations=-1)


def test_an_institution_answers_through_its_release_gate(vault: Vault) -> None:
    north = Institution("north", vault, Policy(samples=5))
    shown = torch.zeros(5, 1, 8, 8, dtype=torch.uint8)
    assert isinstance(north.answer(Ask(shown)), Reply)
    assert reason(north.answer(Ask(shown + 1))) is Reason.SPENT
    assert reason(north.answer(Ask(shown[:1], frozenset({BN_GAP})))) is Reason.FORBIDDEN
    assert north.totals == {"asked": 5, "pulled_back": 0, "refused": 2, "examined": 0}


def test_ledgers_outlive_an_institution_and_are_shared_by_its_agents(
    vault: Vault, tmp_path: Path
) -> None:
    shown = [torch.full((4, 1, 8, 8), i, dtype=torch.uint8) for i in range(4)]
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        agents = [Institution("north", vault, Policy(samples=8), ledger) for _ in range(2)]
        assert isinstance(agents[0].answer(Ask(shown[0]), "hub:1"), Reply)
        assert isinstance(agents[1].answer(Ask(shown[1]), "hub:2"), Reply)
        assert reason(agents[0].answer(Ask(shown[2]))) is Reason.SPENT
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        later = Institution("north", vault, Policy(samples=8), ledger)
        assert later.totals == {"asked": 8, "pulled_back": 0, "refused": 1, "examined": 0}
        assert isinstance(later.answer(Ask(shown[1])), Reply)  # it was charged for ever
        assert reason(later.answer(Ask(shown[3]))) is Reason.SPENT
        assert [e.server for e in ledger.entries()] == ["hub:1", "hub:2", "", "", ""]


def test_what_another_teacher_answered_is_no_repeat(vault: Vault, tmp_path: Path) -> None:
    anew = TrainedVault(replace(vault.assets, seed=1))
    shown = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        for each in (vault, vault, anew):
            Institution("north", each, Policy(), ledger).answer(Ask(shown))
        assert [e.decision for e in ledger.entries()] == ["answered", "repeat", "answered"]


def test_ledgers_that_are_closed_refuse_everything(vault: Vault) -> None:
    ledger = Ledger(None)
    north = Institution("north", vault, Policy(), ledger)
    ledger.close()
    said = north.answer(Ask(torch.zeros(4, 1, 8, 8)))
    assert reason(said) is Reason.FAILED
    assert reason(north.answer(Ask(torch.zeros(4)))) is Reason.FAILED
    with pytest.raises(DataError):
        _ = north.totals


def test_simulated_institutions_obey_the_policy_of_their_experiment(tmp_path: Path) -> None:
    wishes = {"signals": ["logits", "bn_gap"], "pull_back": True, "samples": 9, "scores": False}
    experiment = parse_experiment(
        {"name": "x", "institutions": {"count": 20, "epochs": 1}, "policy": wishes}
    )
    card = simulated_institution(experiment, 7, tmp_path).card
    assert (card.name, card.signals, card.pull_back) == ("institution-07", {LOGITS, BN_GAP}, True)
    assert (card.samples, card.scores) == (9, False)
    assert card.class_counts is not None
    with pytest.raises(SettingsError, match="names 'logit'; choose among logits"):
        simulated_policy(parse_experiment({"name": "x", "policy": {"signals": ["logit"]}}))


# --- answers by the statistics of a batch


BY_BATCH = replace(OPEN, batch_statistics=True)


@pytest.mark.parametrize("request_", [ask(), pull()])
def test_statistics_of_a_batch_are_used_where_the_owner_allows_it(request_: Ask | PullBack) -> None:
    by_batch = replace(request_, batch_statistics=True)
    refused = gate().answer(by_batch)
    assert reason(refused) == Reason.FORBIDDEN
    teacher = by_batch_statistics(TRUTH)
    assert teacher is not None
    answered, plain = (gate(BY_BATCH).answer(each) for each in (by_batch, request_))
    assert isinstance(answered, Reply)
    assert isinstance(plain, Reply)
    if isinstance(request_, PullBack):
        expected = teacher.pull_back(request_.images, request_.cotangents)
        assert torch.equal(answered.gradient, expected)
        assert not torch.equal(plain.gradient, expected)
    else:
        expected = rounded(teacher.ask(images(), frozenset({LOGITS}))[LOGITS], LOGITS, exact=False)
        assert torch.equal(answered.signals[LOGITS], expected)
        assert not torch.equal(plain.signals[LOGITS], expected)


def test_no_distance_from_running_statistics_is_told_beside_them() -> None:
    said = gate(BY_BATCH).answer(replace(ask(4, LOGITS, BN_GAP), batch_statistics=True))
    assert reason(said) == Reason.MALFORMED


def test_a_teacher_without_batch_norm_does_not_pretend() -> None:
    plain = ModuleTeacher(build_network("cnn-groupnorm", K, SHAPE, 0), K)
    said = gate(BY_BATCH, plain).answer(replace(ask(), batch_statistics=True))
    assert reason(said) == Reason.FORBIDDEN


def test_a_repeat_is_the_same_batch() -> None:
    policy, ledger = replace(BY_BATCH, samples=12), Ledger(None)
    card = Card("north", K, SHAPE, policy.signals, True, 12)
    north = ReleaseGate(policy, build_release_mode(policy, TRUTH, None), card, ledger)
    whole = replace(ask(), batch_statistics=True)
    for each in (whole, whole, ask(), ask()):
        assert isinstance(north.answer(each), Reply)
    assert ledger.totals.asked == 8  # by the batch, and by running statistics
    other_order = replace(whole, images=whole.images.flip(0))
    assert isinstance(north.answer(other_order), Reply)
    assert ledger.totals.asked == 12
    assert reason(north.answer(replace(whole, images=whole.images[:2]))) == Reason.SPENT


@pytest.mark.parametrize("mode", ["dp-teacher", "pate", "local-dp"])
def test_a_promise_forbids_them(mode: str) -> None:
    with pytest.raises(SettingsError, match="no teacher with a guarantee has batch norm"):
        Policy(mode=mode, budget=Budget(3.0, 1e-5), samples=10, batch_statistics=True)
