"""Different label sets: one order of names, fusion over what each knows, a class that one knows."""

import math
import random
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedkd.aggregation import fusion_rules as ensemble
from fedkd.aggregation.fusion_of_cards import build_fusion
from fedkd.aggregation.fusion_rules import ALIKE, RULES
from fedkd.aggregation.log_linear_pool import FLOOR, RIDGE, SHRINKAGE_APART, log_linear_pool
from fedkd.client.institution import simulated_institution
from fedkd.client.release.gate import ReleaseGate
from fedkd.client.release.mode_table import build_release_mode
from fedkd.client.sessions.agent import Agent
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.client.vault.vault_settings import Assets
from fedkd.data.partition import known_classes, reassign_unknown_classes
from fedkd.errors import SettingsError
from fedkd.experiment import load_experiment, parse_experiment
from fedkd.loop import Plan, Progress, distil, drive
from fedkd.methods import cudfkd
from fedkd.models import InProcess, ModuleTeacher, build_network
from fedkd.privacy import Policy
from fedkd.procedural import build_priors
from fedkd.protocol import Ask, Card, LabelSpaces, Reply, Signal
from fedkd.server.hub.hub import Hub
from fedkd.simulations.run import run

LOGITS = Signal.LOGITS
POOLED = [-1.485159993171692, -1.7876272201538086, -1.24838125705719]
"""By version 0.1.0, before sets could differ."""
SHAPE = (1, 8, 8)
SOON = 20.0
NAMES = ("ape", "bee", "cat", "dog", "elk", "fox")


def card(name: str, *names: str, counts: tuple[int, ...] | None = None) -> Card:
    return Card(
        name, len(names), SHAPE, frozenset({LOGITS}), True, class_counts=counts, class_names=names
    )


def federation(seed: int) -> list[Card]:
    """Cards of two to four institutions whose sets may differ, with counts."""
    rng = random.Random(seed)
    sets = [rng.sample(NAMES, rng.randint(1, len(NAMES))) for _ in range(rng.randint(2, 4))]
    return [
        card(f"institution-{i}", *own, counts=tuple(rng.randint(0, 60) for _ in own))
        for i, own in enumerate(sets)
    ]


federations = st.integers(0, 10_000).map(federation)
some_examples = settings(max_examples=40, deadline=None)  # a first linear solve takes its time


def said_by(cards: list[Card], seed: int, batch: int = 3) -> dict[str, dict[Signal, Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    return {c.name: {LOGITS: torch.randn(batch, c.classes, generator=rng) * 4} for c in cards}


# --- names


def test_numbers_stand_by_size_and_names_by_the_alphabet() -> None:
    numbers = LabelSpaces.of([card("b", "10", "2"), card("a", "9", "2", "0")])
    assert numbers.names == ("0", "2", "9", "10")
    assert numbers.indices == {"a": (2, 1, 0), "b": (3, 1)}
    words = LabelSpaces.of([card("b", "elk", "ape", "dog"), card("a", "dog", "bee")])
    assert words.names == ("ape", "bee", "dog", "elk")
    assert words.indices["b"] == (3, 0, 2)
    assert words.exclusive == ("ape", "bee", "elk")
    assert not words.identical


def test_cards_without_names_have_the_numbers_from_0() -> None:
    plain = Card("a", 11, SHAPE, frozenset({LOGITS}))
    labels = LabelSpaces.of([plain, replace(plain, name="b")])
    assert labels.names == tuple(map(str, range(11)))
    assert labels.identical
    said = torch.randn(2, 11)
    assert labels.to_local("a", said) is said
    assert labels.to_union("b", said, 0.0) is said


@some_examples
@given(federations)
def test_the_order_in_which_institutions_come_changes_no_name(cards: list[Card]) -> None:
    assert LabelSpaces.of(cards) == LabelSpaces.of(cards[::-1])
    assert set(LabelSpaces.of(cards).names) == {name for c in cards for name in c.class_names or ()}


@some_examples
@given(federations, st.integers(0, 1000))
def test_own_takes_back_what_spread_put_there(cards: list[Card], seed: int) -> None:
    labels = LabelSpaces.of(cards)
    for name, own in said_by(cards, seed).items():
        spread = labels.to_union(name, own[LOGITS], -math.inf)
        assert spread.shape == (3, len(labels.names))
        assert torch.equal(labels.to_local(name, spread), own[LOGITS])
        assert int((spread == -math.inf).sum()) == 3 * (len(labels.names) - own[LOGITS].shape[1])


# --- the pool


def by_least_squares(
    cards: list[Card], said: dict[str, dict[Signal, Tensor]], shrinkage: float, ridge: float
) -> Tensor:
    """The pool's sum of squares, row by row, by a solver that knows nothing of its structure."""
    names = sorted({name for c in cards for name in c.class_names or ()})
    seen = [n for c in cards for n in c.class_counts or ()]
    mean = max(1.0, sum(seen) / len(seen))
    answers = {c.name: said[c.name][LOGITS].double().log_softmax(1).clamp_min(FLOOR) for c in cards}
    rows, right = [], []
    for k, c in enumerate(cards):
        for i, (name, count) in enumerate(
            zip(c.class_names or (), c.class_counts or (), strict=True)
        ):
            root = math.sqrt(max(math.sqrt(count / mean), 0.05))
            row = torch.zeros(len(names) + len(cards)).double()
            row[names.index(name)], row[len(names) + k] = root, -root
            rows.append(row)
            right.append(root * answers[c.name][:, i])
    for k in range(len(cards)):
        row = torch.zeros(len(names) + len(cards)).double()
        row[len(names) + k] = math.sqrt(shrinkage)
        rows.append(row)
        right.append(torch.zeros(3).double())
    for j in range(len(names)):
        row = torch.zeros(len(names) + len(cards)).double()
        row[: len(names)] = -math.sqrt(ridge) / len(names)
        row[j] += math.sqrt(ridge)
        rows.append(row)
        right.append(torch.zeros(3).double())
    solution = torch.linalg.lstsq(torch.stack(rows), torch.stack(right), driver="gelsd").solution
    return solution[: len(names)].T  # (B, K), names in the order of the alphabet


@some_examples
@given(federations, st.integers(0, 1000))
def test_the_pool_over_known_classes_is_a_least_squares_solution(
    cards: list[Card], seed: int
) -> None:
    labels, said = LabelSpaces.of(cards), said_by(cards, seed)
    if labels.identical:
        return
    pooled = build_fusion("auto", cards, "as_trained")(said)[LOGITS].double()
    counts = {c.name: c.class_counts for c in cards if c.class_counts is not None}
    bounded: dict[str, Any] = {**ensemble.bounded_counts(counts)}
    weighed = [replace(c, class_counts=bounded[c.name]) for c in cards]
    expected = by_least_squares(weighed, said, SHRINKAGE_APART, RIDGE)
    order = [labels.names.index(name) for name in sorted(labels.names)]
    assert torch.allclose(pooled[:, order], expected, atol=2e-3)


def test_what_two_share_makes_the_rest_of_their_answers_comparable() -> None:
    # An image of c. Who has no c takes it for a, with b not far; to who has one, b is far off.
    cards = [card("a", "a", "b"), card("b", "b", "c")]
    said = {
        "a": {LOGITS: torch.tensor([[0.90, 0.10]]).log()},
        "b": {LOGITS: torch.tensor([[0.01, 0.99]]).log()},
    }
    fused = build_fusion("auto", cards)(said)[LOGITS].softmax(1)[0]
    a, b, c = fused.tolist()
    assert c > a > b


def silent(cards: list[Card]) -> list[Card]:
    return [replace(c, class_counts=None) for c in cards]


@some_examples
@given(federations)
def test_auto_takes_the_pool_where_sets_differ_and_asks_for_no_counts(cards: list[Card]) -> None:
    labels = LabelSpaces.of(cards)
    assert build_fusion("auto", cards).rule == "log_linear_pool"
    rule = build_fusion("auto", silent(cards))
    assert rule.rule == ("mean_probabilities" if labels.identical else "log_linear_pool")
    equal = [replace(c, class_counts=(7,) * c.classes) for c in cards]
    if not labels.identical:
        said = said_by(cards, 0)
        alike = build_fusion("auto", equal, "as_trained")
        assert torch.allclose(rule(said)[LOGITS], alike(said)[LOGITS], atol=1e-5)


@some_examples
@given(federations, st.integers(0, 1000), st.sampled_from(sorted(set(RULES) - ALIKE)))
def test_the_order_of_an_institutions_classes_changes_nothing(
    cards: list[Card], seed: int, rule: str
) -> None:
    said = said_by(cards, seed)
    numbered = {name: str(NAMES.index(name)) for name in NAMES}
    cards = [replace(c, class_names=tuple(numbered[n] for n in c.class_names or ())) for c in cards]
    mixed_cards, mixed = [], {}
    for c in cards:
        order = torch.randperm(c.classes, generator=torch.Generator().manual_seed(seed)).tolist()
        names, counts = c.class_names or (), c.class_counts or ()
        mixed_cards.append(
            replace(
                c,
                class_names=tuple(names[i] for i in order),
                class_counts=tuple(counts[i] for i in order),
            )
        )
        mixed[c.name] = {LOGITS: said[c.name][LOGITS][:, order]}
    assert torch.equal(
        build_fusion(rule, cards)(said)[LOGITS], build_fusion(rule, mixed_cards)(mixed)[LOGITS]
    )


@some_examples
@given(st.integers(0, 1000), st.sampled_from(sorted(RULES)), st.booleans())
def test_the_same_set_everywhere_is_fused_as_it_was_without_names(
    seed: int, rule: str, named: bool
) -> None:
    counts = {"a": (9, 1, 0, 3), "b": (0, 4, 4, 4), "c": (2, 2, 2, 2)}
    cards = [card(n, *NAMES[:4], counts=c) for n, c in counts.items()]
    if not named:
        cards = [replace(c, class_names=None) for c in cards]
    said = said_by(cards, seed)
    logits = torch.stack([said[n][LOGITS] for n in sorted(said)])
    numbers = torch.tensor([counts[n] for n in sorted(counts)]).float()
    fused = build_fusion(rule, cards, "as_trained")(said)[LOGITS]
    assert torch.equal(fused, RULES[rule](logits, numbers))


def test_the_pool_of_the_same_set_is_what_it_always_was() -> None:
    logits = torch.tensor([[[2.0, 0.5, -1.0]], [[-3.0, 1.0, 0.0]]])
    counts = torch.tensor([[30.0, 10.0, 0.0], [5.0, 0.0, 40.0]])
    pooled = log_linear_pool(logits, counts)
    assert pooled[0].tolist() == pytest.approx(POOLED, abs=1e-6)
    assert torch.equal(pooled, log_linear_pool(logits, counts, shrinkage=10.0))


@pytest.mark.parametrize("rule", sorted(ALIKE))
def test_a_rule_that_cannot_compare_sets_names_one_that_can(rule: str) -> None:
    with pytest.raises(SettingsError, match=f"{rule}.*same classes.*log_linear_pool"):
        build_fusion(rule, [card("a", "ape", "bee"), card("b", "bee", "cat")])
    assert build_fusion(rule, [card("a", "ape", "bee"), card("b", "bee", "ape")]).rule == rule


def test_mean_probabilities_is_a_mean_over_those_who_know() -> None:
    said = {
        "a": {LOGITS: torch.tensor([[0.8, 0.2]]).log()},
        "b": {LOGITS: torch.tensor([[0.4, 0.6]]).log()},
    }
    cards = [card("a", "ape", "bee"), card("b", "bee", "cat")]
    fused = build_fusion("mean_probabilities", cards)(said)[LOGITS].exp()[0]
    assert fused.tolist() == pytest.approx([0.8, 0.3, 0.6])


def test_a_class_whose_knower_is_away_keeps_even_odds() -> None:
    cards = [card("a", "ape", "bee"), card("b", "bee", "cat"), card("c", "ape", "bee")]
    said = said_by(cards, 1)
    for rule in ("log_linear_pool", "mean_probabilities"):
        fused = build_fusion(rule, cards)({n: said[n] for n in "ac"})[LOGITS].softmax(1)
        assert fused[:, 2].tolist() == pytest.approx([1 / 3] * 3)
        assert bool((fused[:, 0] != fused[:, 1]).all())


@settings(max_examples=10, deadline=None)
@given(federations, st.integers(0, 1000))
def test_cotangents_come_back_in_each_institutions_shape(cards: list[Card], seed: int) -> None:
    pool = build_fusion("auto", cards)
    leaves = {
        name: {LOGITS: said[LOGITS].double().requires_grad_()}
        for name, said in said_by(cards, seed, batch=2).items()
    }

    def loss(*own: Tensor) -> Tensor:
        labels, logits = LabelSpaces.of(cards), dict(zip(leaves, own, strict=True))
        # Fusion casts to float32, in which a difference quotient is noise: its parts, in float64.
        spread = torch.stack([labels.to_union(n, x, -math.inf) for n, x in logits.items()])
        ones = [labels.to_union(n, torch.ones_like(x[:1]), 0.0) for n, x in logits.items()]
        known = torch.cat(ones).bool()
        return log_linear_pool(spread, torch.cat(ones), known).log_softmax(1)[:, 0]

    mild = [leaf[LOGITS].detach().clamp(-2, 2).requires_grad_() for leaf in leaves.values()]
    assert torch.autograd.gradcheck(loss, mild)
    torch.autograd.backward(pool(leaves)[LOGITS].softmax(1)[:, 0].sum())
    for c in cards:
        gradient = leaves[c.name][LOGITS].grad
        assert gradient is not None
        assert gradient.shape == (2, c.classes)
        assert bool(gradient.isfinite().all())


# --- joiners


def test_whoever_joins_with_known_classes_moves_none_of_them() -> None:
    cards = [card("b", "bee", "cat"), card("c", "ape", "bee")]
    before = LabelSpaces.of(cards)
    for name in ("a", "d"):
        after = LabelSpaces.of([*cards, card(name, "cat", "ape")])
        assert after.names == before.names
        assert {n: after.indices[n] for n in before.indices} == before.indices


# --- a run


class Spotter(nn.Module):
    """Reads its classes off patches of the image: bright patch i, class ``patches[i]``."""

    def __init__(self, *patches: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(12.0))
        self.patches = patches

    def forward(self, x: Tensor) -> Tensor:
        means = nn.functional.avg_pool2d(x, 4).flatten(1)  # (B, 4)
        return self.gain * means[:, list(self.patches)]


SETS = {"north": ("0", "1", "2"), "south": ("3", "2")}


def spotters() -> dict[str, Spotter]:
    return {name: Spotter(*map(int, own)) for name, own in SETS.items()}


def test_two_institutions_of_different_classes_teach_one_student_over_a_real_hub() -> None:
    policy = Policy(frozenset({LOGITS}), pull_back=True)
    student = build_network("mlp", 4, SHAPE, seed=0)
    told: list[Progress] = []
    with Hub("token") as hub:
        agents = []
        for name, module in spotters().items():
            own = card(name, *SETS[name])
            door = ReleaseGate(
                policy, build_release_mode(policy, ModuleTeacher(module, own.classes), None), own
            )
            agents.append(Agent(hub.address, "token", own, door.answer))
        threads = [threading.Thread(target=agent.serve) for agent in agents]
        for thread in threads:
            thread.start()
        try:
            cards = hub.wait_for(2, SOON)

            def put(request: Any) -> Any:
                each = dict.fromkeys(SETS, request) if isinstance(request, Ask) else request
                answers, lost = hub.ask(each, SOON)
                assert not lost
                shapes = {n: r.signals[LOGITS].shape for n, r in answers.items() if r.signals}
                assert not shapes or {n: s[1] for n, s in shapes.items()} == {
                    "north": 3,
                    "south": 2,
                }
                return answers

            method = cudfkd("pull_back", bn_weight=0.0, warm_up=0.5, generated=0.3, latent=8)
            plan = Plan(budget=2000, batch=50, steps=300, learning_rate=5e-3)
            drive(distil(student, method, cards, plan, build_priors("levels", "leaves"),
                         watch=told.append), put)  # fmt: skip
        finally:
            for agent in agents:
                agent.close()
            for thread in threads:
                thread.join(SOON)
    patches = torch.eye(4).view(4, 1, 2, 2)
    images = nn.functional.interpolate(0.2 + 0.6 * patches, size=8)
    assert student.eval()(images).argmax(1).tolist() == [0, 1, 2, 3]
    assert {p.kind for p in told} >= {"asked", "trained", "generated"}
    profile = [p for p in told if p.kind == "trained"][-1].facts["difficulty_by_institution"]
    assert isinstance(profile, dict)
    assert set(profile) == set(SETS)


@pytest.mark.parametrize("way", ["student", "straight_through", "finite_differences"])
def test_every_way_to_train_a_generator_takes_different_sets(way: str) -> None:
    own = {name: list(names) for name, names in SETS.items()}
    at_hand = InProcess(dict(spotters()), SHAPE, 4, class_names=own)
    student = build_network("mlp", 4, SHAPE, seed=0)
    # Where the student stands for the teachers, it cannot disagree with itself.
    ramp = {"adversarial_start": 0, "adversarial_stop": 0} if way == "student" else {}
    method = cudfkd(way, bn_weight=0.0, warm_up=0.3, generated=0.5, latent=8, **ramp)  # type: ignore[arg-type]
    plan = Plan(budget=200, batch=20, steps=20)
    left = drive(
        distil(student, method, at_hand.cards, plan, build_priors("levels")), at_hand.answer
    )
    assert left.generator_steps > 0


def test_a_class_that_nobody_knows_is_refused_before_the_first_question() -> None:
    at_hand = InProcess(
        dict(spotters()), SHAPE, 4, class_names={n: list(s) for n, s in SETS.items()}
    )
    student = build_network("mlp", 5, SHAPE, seed=0)
    with pytest.raises(SettingsError, match=r"answers \(1, 5\).*4 classes \(0, 1, 2, 3\).*nobody"):
        next(distil(student, cudfkd(), at_hand.cards, Plan(10), build_priors("levels")))
    assert student.training


# --- simulated institutions


LABELS = (("0", "1", "2", "3", "4"), ("9", "8", "4", "3"), ("5", "6", "7", "4"))


def test_images_go_to_those_who_know_their_class() -> None:
    vaults = [TrainedVault(Assets(index=i, count=3, labels=LABELS)) for i in range(3)]
    counts = torch.zeros(10)
    tested = 0
    for vault in vaults:
        assert vault.classes == len(vault.class_names or ())
        for name, count in zip(vault.class_names or (), vault.class_counts, strict=True):
            assert count > 0
            counts[int(name)] += count
        tested += vault.score(Says(0), tuple(map(str, range(10))))[1]
    whole = TrainedVault(Assets())
    assert counts.tolist() == list(whole.class_counts)
    assert tested == whole.score(Says(0))[1]
    alone = vaults[2].class_counts[:3]
    assert alone == whole.class_counts[5:8]


class Says(nn.Module):
    """Names one class of ten, whatever it sees."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: Tensor) -> Tensor:
        return torch.eye(10)[torch.full((len(x),), self.number)]


def test_a_student_is_scored_by_the_names_of_its_outputs() -> None:
    vault = TrainedVault(Assets(index=1, count=3, labels=LABELS))
    names = tuple(map(str, range(10)))
    nines, total = vault.score(Says(9), names)
    assert 0 < nines < total
    assert vault.score(Says(0), names[::-1]) == (nines, total)
    assert vault.score(Says(0), names)[0] == 0
    assert vault.score(Says(0), ("5",) * 10)[0] == 0


@pytest.mark.parametrize(
    ("sets", "count", "words"),
    [
        ((("0", "1"), ("1", "x")), 2, "the class 'x'; the data have 3, called 0 to 2"),
        ((("0", "1"), ("1", "0")), 2, "no institution knows 2"),
        ((("0",), ("1",), ("2",)), 2, "no institution knows 2"),
    ],
)
def test_sets_that_leave_a_class_out_are_refused(
    sets: tuple[tuple[str, ...], ...], count: int, words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        known_classes(sets, count, tuple("012"))


@some_examples
@given(st.integers(0, 1000))
def test_nothing_is_lost_and_nothing_held_unknown(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (40,), generator=rng)
    parts = torch.randperm(40, generator=rng).chunk(3)
    known = ((0, 1), (1, 2), (2, 3))
    dealt = reassign_unknown_classes(parts, labels, known)
    assert sorted(torch.cat(dealt).tolist()) == list(range(40))
    for part, own in zip(dealt, known, strict=True):
        assert set(labels[part].tolist()) <= set(own)
    for before, after, own in zip(parts, dealt, known, strict=True):
        kept = [i for i in before.tolist() if int(labels[i]) in own]
        assert set(kept) <= set(after.tolist())


SMALL: dict[str, Any] = {
    "name": "small",
    "institutions": {"count": 3, "partition": "iid", "epochs": 1, "models": ["mlp"]},
}


def test_an_experiment_deals_sets_in_turn_and_a_card_shows_them() -> None:
    experiment = parse_experiment(
        SMALL | {"institutions": {**SMALL["institutions"], "labels": LABELS}}
    )
    shown = [simulated_institution(experiment, index, None).card for index in range(3)]
    assert [c.class_names for c in shown] == list(LABELS)
    assert [c.classes for c in shown] == [5, 4, 4]
    reply = simulated_institution(experiment, 1, None).answer(
        Ask(torch.zeros(2, *SHAPE, dtype=torch.uint8))
    )
    assert isinstance(reply, Reply)
    assert reply.signals[LOGITS].shape == (2, 4)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([["0", "0"]], "twice in one set"),
        ([[]], "at least 1"),
        ([["0", ""]], "at least 1"),
        ([["0" * 65]], "at most 64"),
        (["01"], "tuple"),
    ],
)
def test_sets_that_are_none_are_refused_by_their_name(labels: Any, words: str) -> None:
    with pytest.raises(SettingsError, match=f"institutions.labels.*{words}") as caught:
        parse_experiment(SMALL | {"institutions": {"labels": labels}})
    assert "\n" not in str(caught.value)


def test_digits_labels_runs_from_its_file_to_its_page(tmp_path: Path) -> None:
    small = ["student.steps=40", "questions.budget=128", "institutions.epochs=8"]
    experiment = load_experiment("digits-labels", small)
    result = run(experiment, "local", tmp_path / "run")
    assert list(result["classes"]) == list("0123456789")
    assert set(result["student"]["recall"]) == set("0123456789")
    assert [len(t["classes"]) for t in result["teachers"]] == [5] * 5
    assert all(0.3 < t["accuracy"] <= 0.55 for t in result["teachers"])
    assert result["ensemble"]["rule"] == "log_linear_pool"
