"""One budget for a data set over all modes: what may open after what, and what its card says."""

import math
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fedkd.client.vault.training.dp_sgd
from fedkd.client.config.owner_config import load_owner_config
from fedkd.client.institution import Institution, owner_institution
from fedkd.client.ledger.dataset_privacy_spending import DpTraining
from fedkd.client.ledger.ledger import Ledger
from fedkd.client.ledger.privacy_accountant import COMPOSED
from fedkd.client.monitoring.terminal_formatting import format_card, format_spending
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.client.vault.training.settings import DpSgdSettings, SupervisedSettings
from fedkd.client.vault.vault import Vault
from fedkd.client.vault.vault_settings import Assets
from fedkd.errors import DataError, SettingsError
from fedkd.privacy import Budget, Policy, Spending, epsilon_of_rho, rho_of_epsilon
from fedkd.protocol import Ask, Card, Reason, Refusal, Reply
from fedkd.wire import Hello, decode_from_institution, encode

PRIVATE = DpSgdSettings(3.0, epochs=1, sampling_rate=0.5, accountant="rdp")
BASE = Assets(index=1, count=20, training=SupervisedSettings(epochs=1))
VOTERS = replace(BASE, model="sklearn:LogisticRegression", voters=5)
TRAINED = replace(BASE, model="scattering", dp_training=PRIVATE)
BUDGET = Budget(8.0, 4e-5)
NOISE = {"pate": Fraction(9), "local-dp": Fraction(100)}
TRAININGS = 3


def policy(mode: str, **words: Any) -> Policy:
    if mode in NOISE:
        words = {"noise": NOISE[mode], **words}
    return Policy(mode=mode, **({} if mode == "none" else {"budget": BUDGET, **words}))


def shown(count: int, start: int = 0) -> torch.Tensor:
    return (
        torch.arange(start, start + count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    )


def refused(said: Reply | Refusal) -> Reason | None:
    return said.reason if isinstance(said, Refusal) else None


def travelled(card: Card) -> Card:
    heard = decode_from_institution(encode(Hello(1, "token", card)))
    assert isinstance(heard, Hello)
    return heard.card


@pytest.fixture(scope="module")
def vaults(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Vault]:
    """By mode, all of the same images; three private teachers of them, once trained."""
    made = {
        "none": TrainedVault(BASE),
        "local-dp": TrainedVault(BASE),
        "pate": TrainedVault(VOTERS),
    }
    for number in range(TRAININGS):
        vault = TrainedVault(TRAINED, tmp_path_factory.mktemp("kept"))
        assert vault.guarantee is not None
        made[f"dp-teacher {number}"] = vault
    return made


# --- the sum


def test_a_promise_of_an_image_counts_everything_and_one_of_the_data_set_only_its_like() -> None:
    spent = Spending(image_rho=500, data_set_rho=700)
    assert Spending().epsilon == spent.delta == 0
    assert BUDGET.limit(spent, whole_data_set=False) == BUDGET.micro_rho
    assert (
        BUDGET.limit(spent, whole_data_set=True)
        == BUDGET.limit(Spending().with_training(1.0, 1e-6), True)
        == 0
    )
    assert BUDGET.limit(Spending(data_set_rho=700), whole_data_set=True) == BUDGET.micro_rho
    trained = spent.with_training(3.0, 1e-5).with_training(0.1, 2e-5)
    assert (trained.epsilon, trained.delta) == (Fraction("3.1"), Fraction("3e-5"))
    left = BUDGET.remaining_after(trained)
    assert left is not None
    assert (left.epsilon, left.delta) == (pytest.approx(4.9), pytest.approx(1e-5))
    assert Fraction(left.delta) <= Fraction("1e-5"), "rounded to the safe side"
    assert (
        BUDGET.limit(trained, whole_data_set=False)
        == left.micro_rho
        == rho_of_epsilon(4.9, left.delta)
    )
    assert trained.without_training(3.0, 1e-5) == spent.with_training(0.1, 2e-5)


def test_sums_are_those_of_decimals() -> None:
    thrice = Spending().with_training(0.1, 1e-5).with_training(0.1, 1e-5).with_training(0.1, 1e-5)
    assert 0.1 + 0.1 + 0.1 > 0.3, "in floats"
    assert Budget(0.3, 3e-5).covers(thrice)
    assert not Budget(0.3, 2.9e-5).covers(thrice)
    assert not Budget(0.29, 3e-5).covers(thrice)
    noisy = replace(thrice, image_rho=1)
    assert not Budget(0.3, 3e-5).covers(noisy), "nothing is left for an answer"
    assert Budget(1.0, 4e-5).covers(noisy)
    assert Budget(0.3, 3e-5).remaining_after(thrice) is None


@given(
    st.floats(0.01, 20),
    st.floats(1e-9, 1e-2),
    st.lists(st.tuples(st.floats(0.01, 9), st.floats(1e-9, 1e-2))),
)
@settings(max_examples=60, deadline=None)
def test_what_is_left_and_what_is_spent_are_never_more_than_the_budget(
    epsilon: float, delta: float, trainings: list[tuple[float, float]]
) -> None:
    try:
        budget = Budget(epsilon, delta)
    except SettingsError:
        return
    spent = Spending(trainings=tuple(trainings))
    rho = budget.limit(spent, whole_data_set=False)
    if rho and trainings:
        left = budget.remaining_after(spent)
        assert left is not None
        assert Fraction(left.epsilon) + spent.epsilon <= Fraction(str(epsilon))
        assert Fraction(left.delta) + spent.delta <= Fraction(str(delta))
        assert epsilon_of_rho(rho, left.delta) <= left.epsilon
    assert budget.covers(replace(spent, image_rho=rho)) == budget.covers(spent)
    assert not rho or not budget.covers(replace(spent, image_rho=rho + 1))


@pytest.mark.parametrize(("one", "other"), [(0.7, 0.1), (0.1, 4.1), (2.3, 0.4)])
def test_the_budget_of_two_trainings_covers_both(one: float, other: float) -> None:
    both = Spending().with_training(one, 1e-5).with_training(other, 1e-6)
    assert Budget(one, 1e-5).and_another(other, 1e-6).covers(both)
    assert not Budget(one, 1e-5).and_another(other - 1e-9, 1e-6).covers(both)


def test_the_card_of_a_private_teacher_counts_the_noisy_answers_before_it(
    vaults: dict[str, Vault],
) -> None:
    with closing(Ledger(None)) as ledger:
        north = Institution("north", vaults["pate"], policy("pate"), ledger)
        assert isinstance(north.answer(Ask(shown(20, 0))), Reply)
        (spent,) = ledger.dataset_accounts.all_spending().values()
        own = vaults["dp-teacher 0"].guarantee
        card = Institution("north", vaults["dp-teacher 0"], policy("dp-teacher"), ledger).card
    assert spent.micro_rho > 0
    assert own is not None
    assert card.guarantee is not None
    left = BUDGET.remaining_after(spent.with_training(3.0, 1e-5))
    assert left is not None
    earlier = epsilon_of_rho(spent.micro_rho, left.delta)
    assert card.guarantee.epsilon == pytest.approx(own.epsilon + earlier)
    assert card.guarantee.delta == pytest.approx(own.delta + left.delta)


# --- whatever opens after whatever


class Model:
    """What the rule says, told once more and in other words."""

    def __init__(self) -> None:
        self.rho = {"pate": 0, "local-dp": 0}
        self.trained: set[str] = set()
        self.unpromised = 0

    def cap(self, mode: str) -> int:
        if mode == "local-dp":
            return 0 if self.rho["pate"] or self.trained else rho_of_epsilon(8.0, 4e-5)
        n = len(self.trained)
        return rho_of_epsilon(8.0 - 3 * n, round((4 - n) * 1e-5, 12)) if n < 3 else 0

    def opens(self, which: str) -> bool:
        mode = which.split()[0]
        if mode == "none":
            return True
        total = sum(self.rho.values())
        if mode == "dp-teacher":
            n = len(self.trained | {which})
            return n < 3 and (
                not total or total <= rho_of_epsilon(8.0 - 3 * n, round((4 - n) * 1e-5, 12))
            )
        return 0 < self.cap(mode) >= total


which = st.sampled_from(
    ["none", "pate", "local-dp", *(f"dp-teacher {n}" for n in range(TRAININGS))]
)


@given(st.lists(st.tuples(which, st.integers(0, 40), st.sampled_from([1, 20, 60])), max_size=7))
@settings(max_examples=40, deadline=None)
def test_whatever_opens_after_whatever_no_promise_is_broken(
    vaults: dict[str, Vault], openings: list[tuple[str, int, int]]
) -> None:
    model = Model()
    with closing(Ledger(None)) as ledger:
        for name, start, count in openings:
            mode, before = name.split()[0], ledger.head()
            if not model.opens(name):
                with pytest.raises(SettingsError, match="on these images"):
                    Institution("north", vaults[name], policy(mode), ledger)
                continue
            north = Institution("north", vaults[name], policy(mode), ledger)
            if mode == "dp-teacher":
                model.trained.add(name)
            else:
                assert ledger.head() == before, "to open tells nothing"
            promised = north.card.guarantee
            assert (promised is None) == (mode == "none")
            if promised is not None:
                assert promised.unpromised == model.unpromised
                assert promised.epsilon <= 8
                assert promised.delta <= 4.001e-5
                assert promised.epsilon >= 2.9 * len(model.trained)
            asked = Ask(shown(count, start))
            spent = ledger.dataset_accounts.all_spending()
            said = north.answer(asked)
            (known,) = ledger.dataset_accounts.all_spending().values()
            if mode in NOISE:
                # None of it was answered, or all that was new is paid for, within the cap.
                told = known.micro_rho - sum(model.rho.values())
                model.rho[mode] += told
                assert told == 0 or isinstance(said, Reply)
                assert isinstance(said, Reply) or said.reason is Reason.SPENT
                assert sum(model.rho.values()) <= model.cap(mode)
            else:
                assert isinstance(said, Reply)
                last = [*ledger.entries()][-1]
                assert (last.mode, last.count) == (mode, count)
                model.unpromised += last.cost if mode == "none" else 0
            assert (known.image_rho, known.data_set_rho) == (
                model.rho["pate"],
                model.rho["local-dp"],
            )
            assert known.unpromised == model.unpromised
            assert len(known.trainings) == len(model.trained)
            assert len(spent) <= 1
        ledger.verify()


def test_local_dp_counts_for_an_image_and_an_image_ends_local_dp(vaults: dict[str, Vault]) -> None:
    def opened(name: str) -> Institution:
        return Institution("north", vaults[name], policy(name.split()[0]), ledger)

    with closing(Ledger(None)) as ledger:
        for start in (0, 30):  # it may open again over what itself has spent
            assert refused(opened("local-dp").answer(Ask(shown(30, start)))) is None
        (known,) = ledger.dataset_accounts.all_spending().values()
        assert known == Spending(data_set_rho=60 * 12_800)
        left = BUDGET.micro_rho - known.data_set_rho
        paid = left // math.ceil(2 * 10**6 / (2 * 9**2))
        voters = opened("pate")
        assert refused(voters.answer(Ask(shown(paid + 1)))) is Reason.SPENT
        assert refused(voters.answer(Ask(shown(paid)))) is None
        with pytest.raises(SettingsError, match="protects the whole data set") as caught:
            opened("local-dp")
        assert "choose pate or dp-teacher" in str(caught.value)
        told = opened("dp-teacher 0") if BUDGET.covers(known.with_training(3.0, 1e-5)) else None
        assert told is None, "the three together are more than was granted"
    with closing(Ledger(None)) as ledger:
        card = opened("dp-teacher 0").card
        with pytest.raises(SettingsError, match="protects the whole data set"):
            opened("local-dp")
        assert card.guarantee is not None
        votes = opened("pate").card.guarantee
        assert votes is not None
        assert votes.mechanism == f"pate {COMPOSED}"
        assert votes.epsilon == pytest.approx(8, abs=1e-4)
        assert votes.delta == pytest.approx(4e-5)


def test_a_gate_that_is_open_hears_of_a_training(vaults: dict[str, Vault]) -> None:
    with closing(Ledger(None)) as ledger:
        north = Institution("north", vaults["pate"], policy("pate", noise=Fraction(2)), ledger)
        each = 250_000  # 2 / (2 * 2^2) rho
        before, after = (rho_of_epsilon(8.0 - e, 4e-5 - d) for e, d in ((0, 0), (3, 1e-5)))
        assert refused(north.answer(Ask(shown(after // each + 1)))) is None
        more = Ask(shown(1, 99))
        assert (after // each + 2) * each <= before, "else it would be refused in any case"
        data_set = ledger.dataset_accounts.register(vaults["pate"].fingerprints)
        assert not ledger.charge_trainings(
            [DpTraining("k", 3.0, 1e-5)], data_set, policy("dp-teacher")
        )
        assert refused(north.answer(more)) is None
        assert ledger.charge_trainings(
            [DpTraining("k", 3.0, 1e-5)], data_set, Policy(mode="dp-teacher")
        )
        assert refused(north.answer(Ask(shown(1, 100)))) is Reason.SPENT
        assert refused(north.answer(more)) is None, "it was paid for"


def test_nobody_knows_the_images_of_a_external_teacher_so_they_may_be_any() -> None:
    with closing(Ledger(None)) as ledger:
        enrol = ledger.dataset_accounts.register
        one, unknown, other = enrol([b"a"]), enrol([]), enrol([b"b"])
        assert enrol([]) == unknown
        assert ledger.charge_trainings([DpTraining("k", 1.0, 1e-6)], unknown, Policy())
        assert ledger.charge_trainings([DpTraining("l", 2.0, 1e-6)], one, Policy())
        sums = {
            name: float(ledger.dataset_accounts.spending(name).epsilon)
            for name in (one, unknown, other)
        }
        assert sums == {one: 3.0, unknown: 3.0, other: 1.0}
        each = ledger.dataset_accounts.all_spending()
        assert {name: float(told.epsilon) for name, told in each.items()} == {
            one: 2.0,
            unknown: 1.0,
        }


# --- trainings


def test_a_second_training_adds_up_and_a_teacher_that_is_found_again_does_not(
    tmp_path: Path,
) -> None:
    word = Policy(mode="dp-teacher")
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        first = Institution("north", TrainedVault(TRAINED, tmp_path / "one"), word, ledger).card
        again = Institution("north", TrainedVault(TRAINED, tmp_path / "one"), word, ledger).card
        assert first == again
        assert first.guarantee is not None
        alone = first.guarantee
        assert alone.mechanism == "DP-SGD"
        second = Institution("north", TrainedVault(TRAINED, tmp_path / "two"), word, ledger).card
        both = second.guarantee
        assert both is not None
        assert both.epsilon == pytest.approx(3.0 + alone.epsilon)
        assert both.delta == pytest.approx(2e-5)
        assert both.mechanism == f"DP-SGD {COMPOSED}"
        assert travelled(second) == second, "it travels"
        rows = [(e.kind, e.decision, e.epsilon, e.delta, e.mode) for e in ledger.entries()]
        assert rows == [("training", "answered", 3.0, 1e-5, "dp-teacher")] * 2
        (told,) = ledger.dataset_accounts.all_spending().values()
        line = format_spending("x", told, None)
        assert line == "data set x: 2 private trainings, epsilon 6 at delta 2e-05 together"
        ledger.verify()
    with closing(Ledger(None)) as fresh:
        # Books that do not know of a teacher that is there: it is charged as it is served.
        card = Institution("north", TrainedVault(TRAINED, tmp_path / "one"), word, fresh).card
        assert card == first
        assert len([*fresh.entries()]) == 1


def test_a_training_is_charged_before_it_begins_and_whatever_becomes_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Ledger(None)) as ledger:

        def killed(*_: object) -> None:
            assert [e.kind for e in ledger.entries()] == ["training"], "it began uncharged"
            raise KeyboardInterrupt

        monkeypatch.setattr(fedkd.client.vault.training.dp_sgd, "train_with_dp_sgd", killed)
        word = policy("dp-teacher", budget=Budget(5.0, 2e-5))
        with pytest.raises(KeyboardInterrupt):
            Institution("north", TrainedVault(TRAINED, tmp_path), word, ledger)
        monkeypatch.undo()
        with pytest.raises(SettingsError, match=r"than policy\.budget, epsilon 5") as caught:
            Institution("north", TrainedVault(TRAINED, tmp_path), word, ledger)
        assert "epsilon 3 at delta 1e-05 of trainings are spent on these images" in str(
            caught.value
        )
        assert not [*tmp_path.iterdir()], "it was trained all the same"
        assert [e.decision for e in ledger.entries()] == ["answered", "refused"]
        more = replace(word, budget=Budget(6.0, 2e-5))
        card = Institution("north", TrainedVault(TRAINED, tmp_path), more, ledger).card
        assert card.guarantee is not None
        assert 5.9 < card.guarantee.epsilon <= 6
        assert ledger.totals.refused == 0, "no question was"


def test_ledgers_that_cannot_be_written_train_nobody(tmp_path: Path) -> None:
    ledger = Ledger(None)
    ledger.close()
    with pytest.raises(DataError):
        Institution("north", TrainedVault(TRAINED, tmp_path), Policy(mode="dp-teacher"), ledger)
    assert not [*tmp_path.iterdir()]


def test_an_owner_pays_for_one_training_unless_he_grants_more(tmp_path: Path) -> None:
    path = tmp_path / "owner.toml"

    def write(**words: Any) -> Path:
        private = {"epsilon": 3.0, "epochs": 1, "sampling_rate": 0.5, "accountant": "rdp"}
        seed = words.pop("seed", 0)
        said = {
            "name": "north",
            "teacher": {"model": "scattering", "seed": seed, "private": private},
            "data": {"source": "digits", "count": 20},
            "policy": {"signals": ["logits"], "samples": 100, "mode": "dp-teacher", **words},
        }
        path.write_text(tomli_w.dumps(said))
        return path

    assert load_owner_config(write()).effective_policy.budget == Budget(3.0, 1e-5)
    first = owner_institution(load_owner_config(path)).card
    assert owner_institution(load_owner_config(path)).card == first
    with pytest.raises(SettingsError, match="grant the sums, or serve the teacher that there is"):
        owner_institution(load_owner_config(write(seed=1)))
    assert owner_institution(load_owner_config(write())).card == first, (
        "the teacher that there is was not touched"
    )
    granted = owner_institution(
        load_owner_config(write(seed=1, budget={"epsilon": 6.0, "delta": 2e-5}))
    ).card.guarantee
    assert granted is not None
    assert 5.9 < granted.epsilon <= 6


# --- what was told without a promise


def test_a_card_says_what_was_released_before_without_a_guarantee(
    vaults: dict[str, Vault], tmp_path: Path
) -> None:
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        plain = Institution("north", vaults["none"], policy("none"), ledger)
        for start in (0, 0, 10):  # the second is a repeat
            assert refused(plain.answer(Ask(shown(10, start)))) is None
        for name in ("pate", "local-dp", "dp-teacher 0"):
            card = Institution("north", vaults[name], policy(name.split()[0]), ledger).card
            assert card.guarantee is not None
            assert card.guarantee.unpromised == 20
            assert "but 20 images were answered before without any guarantee" in format_card(card)
            assert travelled(card) == card
            if name == "local-dp":
                break
        (told,) = ledger.dataset_accounts.all_spending().values()
        assert "20 images were answered without any guarantee" in format_spending("x", told, BUDGET)
        stranger = TrainedVault(replace(BASE, index=2))
        other = Institution("north", stranger, policy("local-dp"), ledger).card.guarantee
        assert other is not None
        assert other.unpromised == 0
