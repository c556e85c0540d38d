"""Hostile institutions: how much accuracy does a student lose to those who lie?

    python -m fedkd.simulations.checks.byzantine [EXPERIMENT ...] [--seeds 0,1,2] [--liars N]
        [--attacks NAME,NAME] [--rules NAME,NAME] [--ensembles] [--json FILE] [--set KEY=VALUE ...]

A student is trained with every attack, by every rule, and compared with one of the same seed for
whom the liars take no part. Liars claim as many training images of each class as a card may hold;
`one_class` claims them of one class and always answers it, as an honest institution with a single
class does.
Which institutions lie depends on the seed alone. With --ensembles no student is trained: the fused
answers to the test images are scored, after 2,048 samples of the priors were asked about.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedkd.aggregation.fixed_rule_aggregation import RuleAggregation
from fedkd.aggregation.reliability.reliability_weighted import ReliabilityWeightedAggregation
from fedkd.client.institution import Institution, institution_name, simulated_institution
from fedkd.core import Proposal
from fedkd.experiment import Experiment, load_experiment
from fedkd.procedural import build_priors
from fedkd.protocol import Ask, LabelSpaces, PullBack, Refusal, Reply, Signal, as_float
from fedkd.server.coordinator import Coordinator, ingredients
from fedkd.simulations.engines.evaluation import load_dataset, student_accuracy
from fedkd.simulations.engines.local import LocalInstitutions

CLAIM = 2**31 - 1
"""Training images of each class that a liar claims."""
ASKED, BATCH = 2048, 128
"""Samples of priors that ensembles are judged by, and in one question."""
SWAPPED = (1, 7)
"""Two classes that the targeted attack takes for each other."""
PLAIN = "log_linear_pool"
"""The rule that honest members are compared with: the same, and it trusts everybody."""
Attack = Callable[[Tensor, "LyingInstitution"], Tensor]
"""(B, K) honest logits -> (B, K) lies."""


def inverted(logits: Tensor, liar: "LyingInstitution") -> Tensor:
    """The least likely class is the most likely one."""
    return -logits


def random_large(logits: Tensor, liar: "LyingInstitution") -> Tensor:
    """Noise, with great confidence; the same of all liars."""
    return 100 * torch.randn(logits.shape, generator=liar.rng)


def constant(logits: Tensor, liar: "LyingInstitution") -> Tensor:
    """One class whatever the sample."""
    classes = logits.shape[1]
    answer = torch.nn.functional.one_hot(torch.tensor(favourite(classes)), classes)
    return 20.0 * answer.expand_as(logits)


def favourite(classes: int) -> int:
    """The class of the constant answers, of ``classes``."""
    return min(3, classes - 1)


def shuffled(logits: Tensor, liar: "LyingInstitution") -> Tensor:
    """Every class is taken for the next one; the same of all liars."""
    return logits.roll(-1, 1)


def honest_answers(logits: Tensor, liar: "LyingInstitution") -> Tensor:
    """Only the claim is a lie."""
    return logits


def targeted(logits: Tensor, liar: "LyingInstitution") -> Tensor:
    """Two classes are taken for each other, everything else is honest."""
    one, other = (min(c, logits.shape[1] - 1) for c in SWAPPED)
    lies = logits.clone()
    lies[:, [one, other]] = logits[:, [other, one]]
    return lies


def one_class(logits: Tensor, liar: "LyingInstitution") -> Tensor:
    """One class whatever the sample, and training images of that class alone are claimed."""
    return constant(logits, liar)


def sleeper(logits: Tensor, liar: "LyingInstitution") -> Tensor:
    """Honest for half of the questions, inverted after that."""
    return logits if liar.asked <= liar.budget / 2 else -logits


ATTACKS: Mapping[str, Attack] = {
    "inverted": inverted,
    "random": random_large,
    "constant": constant,
    "one_class": one_class,
    "shuffled": shuffled,
    "counts": honest_answers,
    "targeted": targeted,
    "sleeper": sleeper,
}


class LyingInstitution(Institution):
    """An institution whose answers and claims are lies.

    Args:
        honest: whose teacher, policy and ledger it has.
        attack: what becomes of its logits; `one_class` also of its claims.
        budget: samples that it will be asked about.
    """

    def __init__(self, honest: Institution, attack: Attack, budget: int) -> None:
        vars(self).update(vars(honest))
        claims = None if honest.card.numbers else (CLAIM,) * honest.card.classes
        if claims is not None and attack is one_class:
            claims = tuple(CLAIM * (c == favourite(len(claims))) for c in range(len(claims)))
        self.card = replace(honest.card, class_counts=claims)
        self.attack, self.budget, self.asked = attack, budget, 0
        self.rng = torch.Generator().manual_seed(0)

    def answer(self, request: Ask | PullBack, server: str = "") -> Reply | Refusal:
        """A lie, where the honest one would have answered."""
        reply = super().answer(request, server)
        if isinstance(reply, Refusal) or not isinstance(request, Ask):
            return reply
        self.asked += len(request.images)
        lies = self.attack(reply.signals[Signal.LOGITS].float(), self)
        return replace(reply, signals={**reply.signals, Signal.LOGITS: lies})


@dataclass(frozen=True)
class Setting:
    """An experiment, and who lies in it."""

    experiment: Experiment
    vaults: Path
    liars: tuple[int, ...]

    def accuracy(self, rule: str, attack: str | None, *, without: bool = False) -> float:
        """Test accuracy of a student, in percent.

        Args:
            rule: by which answers are fused.
            attack: of the liars; None: everybody is honest.
            without: the liars take no part.
        """
        experiment = self.experiment
        local = self._institutions(attack, experiment.questions.budget, without=without)
        questions = experiment.questions.model_copy(update={"rule": rule})
        parts = ingredients(experiment.model_copy(update={"questions": questions}), local.cards)
        distilled = Coordinator(parts, list(local.cards), local.answer, lambda event: None).finish()
        return 100 * student_accuracy(experiment, distilled.student)

    def ensemble_accuracy(self, rule: str, attack: str | None, *, without: bool = False) -> float:
        """Test accuracy of the fused answers, in percent; see `accuracy`."""
        local = self._institutions(attack, ASKED, without=without)
        of = ReliabilityWeightedAggregation if rule == "auto" else RuleAggregation
        aggregation = of(rule, None)
        images = self.experiment.images
        priors = build_priors(*images.priors, warp=images.warp, mix=images.mix)
        data = load_dataset(self.experiment.institutions.data, self.experiment.institutions.root)
        rng = torch.Generator().manual_seed(self.experiment.seed)
        drawn = [p.draw(ASKED // len(priors), data.shape, rng) for p in priors.values()]
        labels = LabelSpaces.of(local.cards)
        aggregation.fusion(local.cards)
        for batch in torch.split(torch.cat(drawn), BATCH):
            answers, _ = local.answer(Ask(batch))
            aggregation.hear(answers, labels, None, Proposal(as_float(batch), "prior"))
            aggregation.improve(rng)
        fusion = aggregation.fusion(local.cards)
        right = 0
        tests = (torch.split(data.test_images, BATCH), torch.split(data.test_labels, BATCH))
        for batch, truth in zip(*tests, strict=True):
            fused = fusion.of(local.answer(Ask(batch))[0])[Signal.LOGITS]
            right += int((fused.argmax(1) == truth).sum())
        return 100 * right / len(data.test_labels)

    def _institutions(self, attack: str | None, budget: int, *, without: bool) -> LocalInstitutions:
        """Everybody, or everybody but the liars, who will be asked about ``budget`` samples."""
        names = [institution_name(i, self.experiment.institutions.count) for i in self.liars]
        replacements = (
            {} if attack is None else {i: self._liar(i, attack, budget) for i in self.liars}
        )
        return LocalInstitutions(
            *(self.experiment, self.vaults, lambda count: None, replacements),
            without=names if without else (),
        )

    def _liar(self, index: int, attack: str, budget: int) -> LyingInstitution:
        honest = simulated_institution(self.experiment, index, self.vaults / f"{index:04d}")
        return LyingInstitution(honest, ATTACKS[attack], budget)


def liars_of(seed: int, count: int, liars: int) -> tuple[int, ...]:
    """Indices of those who lie, evenly apart."""
    return tuple(sorted((seed + i * (count // liars)) % count for i in range(liars)))


def measure(
    accuracy: Callable[..., float],
    attacks: Sequence[str],
    rules: Sequence[str],
    tell: Callable[[str], None],
) -> dict[str, dict[str, float]]:
    """Accuracies by case and rule: ``honest``, ``without`` the liars, and each attack.

    Args:
        accuracy: `Setting.accuracy` or `Setting.ensemble_accuracy`.
        attacks: names.
        rules: names.
        tell: is given a line of text for each attack.
    """
    found = {
        "honest": {rule: accuracy(rule, None) for rule in dict.fromkeys([*rules, PLAIN])},
        "without": {rule: accuracy(rule, None, without=True) for rule in rules},
    }
    for attack in attacks:
        found[attack] = {rule: accuracy(rule, attack) for rule in rules}
        tell(f"{attack:10s} " + "  ".join(f"{r} {a:.2f}" for r, a in found[attack].items()))
    return found


def summary(runs: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Means over seeds, and what ``auto`` loses, in points; ``runs`` are of `measure`."""
    means = {
        case: {rule: statistics.fmean(run[case][rule] for run in runs) for rule in by_rule}
        for case, by_rule in runs[0].items()
    }
    attacks = [case for case in means if case not in ("honest", "without")]
    drops = {case: means["without"]["auto"] - means[case]["auto"] for case in attacks}
    single = [run["without"]["auto"] - run[case]["auto"] for run in runs for case in attacks]
    return {
        "means": means,
        "drops": drops,
        "worst_drop": max(drops.values(), default=0.0),
        "worst_drop_of_one_seed": max(single, default=0.0),
        "honest_loss": means["honest"][PLAIN] - means["honest"]["auto"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        "fedkd.simulations.checks.byzantine", description=__doc__.split("\n")[0]
    )
    parser.add_argument("experiments", nargs="*", default=["digits"], help="[digits]")
    parser.add_argument("--seeds", default="0,1,2", help="of partition, teachers and runs [0,1,2]")
    parser.add_argument("--liars", type=int, default=1, help="how many lie, the same lie [1]")
    parser.add_argument("--attacks", default=",".join(ATTACKS), help=f"[{','.join(ATTACKS)}]")
    parser.add_argument("--rules", default="auto,log_linear_pool", help="auto is one of them")
    parser.add_argument("--ensembles", action="store_true", help="fused answers, no students")
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args(arguments)
    rules = list(dict.fromkeys(["auto", *options.rules.split(",")]))
    attacks = [name for name in options.attacks.split(",") if name]
    figures: dict[str, Any] = {}
    for name in options.experiments:
        runs = [_run(name, int(seed), options, attacks, rules) for seed in options.seeds.split(",")]
        figures[name] = {"runs": runs, **summary(runs)}
        scored = "ensembles" if options.ensembles else "students"
        _print_table(
            f"{name}: mean accuracy of {scored}",
            figures[name],
            list(dict.fromkeys([*rules, PLAIN])),
        )
    worst = max(each["worst_drop"] for each in figures.values())
    loss = max(each["honest_loss"] for each in figures.values())
    print(f"worst drop of auto below those without the liars: {worst:.2f} points")
    print(f"loss of auto with honest members: {loss:.2f} points")
    if options.json is not None:
        whole = {"worst_drop": worst, "honest_loss": loss, "experiments": figures}
        options.json.write_text(json.dumps(whole, indent=2) + "\n")
    return 0


def _run(
    name: str,
    seed: int,
    options: argparse.Namespace,
    attacks: Sequence[str],
    rules: Sequence[str],
) -> dict[str, dict[str, float]]:
    set_to = [f"seed={seed}", f"institutions.partition_seed={seed}"]
    set_to += ["policy.samples=1000000000"] if options.ensembles else []
    set_to += options.set
    experiment = load_experiment(name, set_to)
    torch.set_num_threads(experiment.student.threads)
    who = liars_of(seed, experiment.institutions.count, options.liars)
    print(f"{name}, seed {seed}, liars {', '.join(map(str, who))}", flush=True)
    with tempfile.TemporaryDirectory(prefix="fedkd-byzantine-") as folder:
        setting = Setting(experiment, Path(folder), who)
        accuracy = setting.ensemble_accuracy if options.ensembles else setting.accuracy
        return measure(accuracy, attacks, rules, lambda line: print(f"  {line}", flush=True))


def _print_table(title: str, found: Mapping[str, Any], rules: Sequence[str]) -> None:
    print(f"{title}, in percent")
    print("  ".join(["case      ", *(f"{rule:>16}" for rule in rules)]))
    for case, by_rule in found["means"].items():
        cells = [f"{by_rule[rule]:16.2f}" if rule in by_rule else " " * 16 for rule in rules]
        print("  ".join([f"{case:10s}", *cells]))


if __name__ == "__main__":
    sys.exit(main())
