"""Generator objectives of the papers, written out a second time, for comparison with the terms."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedkd.aggregation.sample_selection import confident

LOUD = {
    **{"bn_weight": 0.01, "tv_weight": 0.01, "l2_weight": 0.01, "adversarial_weight": 1.0},
    **{"student_weight": 0.3, "row_weight": 0.01},
}
"""Weights to be given to methods: at the papers' one term drowns the others, and nobody would miss
them."""


@dataclass
class Seen:
    """Images, what teacher and student answer, the gap, and terms of an earlier step."""

    x: Tensor
    t: Tensor
    s: Tensor
    gap: Tensor
    before: Mapping[str, Tensor]
    class_targets: Tensor | None
    discriminator: nn.Module | None


def bn_gap(network: nn.Module, x: Tensor) -> Tensor:
    """sum over layers of |var_running - var(h)|_2 + |mu_running - mu(h)|_2."""
    total = []

    def read(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        h = inputs[0].transpose(0, 1).flatten(1)
        total.append((norm.running_var - h.var(1, correction=0)).square().sum().sqrt())
        total.append((norm.running_mean - h.mean(1)).square().sum().sqrt())

    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(read) for norm in norms]
    network(x)
    for hook in hooks:
        hook.remove()
    return torch.stack(total).sum()


def jensen_shannon(t: Tensor, s: Tensor, selected: Tensor) -> Tensor:
    """Divergence at temperature 3 of the images selected, (B, K)."""
    p, q = (t[selected] / 3).softmax(1), (s[selected] / 3).softmax(1)
    p, q, m = p.clamp(0.01, 0.99), q.clamp(0.01, 0.99), (p / 2 + q / 2).clamp(0.01, 0.99)
    return (m * (m / p).log() + m * (m / q).log()) / 2


def variation(x: Tensor) -> Tensor:
    """|dx| + |dy| + both diagonals, whole-batch norms, of images with deviation 1/4."""
    x = 4 * x
    h, w = x.shape[2:]
    total = torch.zeros(()).to(x)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = x[:, :, : h - dy, max(0, -dx) : w - max(0, dx)]
        there = x[:, :, dy:, max(0, dx) : w + min(0, dx)]
        total = total + (here - there).square().sum().sqrt()
    return total


def certainty(t: Tensor) -> dict[str, Tensor]:
    """Uncertainty of each answer, and the negative entropy of all of them."""
    mean = t.softmax(1).mean(0)
    sure = -t.log_softmax(1).max(1).values.mean()
    return {"one_hot": sure, "class_balance": (mean * mean.log()).sum()}


def frequencies(t: Tensor, before: Mapping[str, Tensor]) -> Tensor:
    """How often each class was drawn, (K,): 50 at first, then half of it and half of this batch."""
    classes = t.shape[1]
    counts = torch.tensor([float((t.argmax(1) == c).sum()) for c in range(classes)])
    return (before.get("drawn", torch.full((classes,), 50.0)) / 2 + counts / 2).clamp_min(1.0)


def divergence(seen: Seen, temperature: float) -> Tensor:
    """tau^2 KL(T || S), (B,)."""
    p, q = (seen.t / temperature).softmax(1), (seen.s / temperature).softmax(1)
    return temperature**2 * (p * (p / q).log()).sum(1)


def centred_distance(t: Tensor, s: Tensor) -> Tensor:
    """mean |S - T| of centred logits."""
    apart = (s - s.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))
    return apart.abs().mean()


def written_out(paper: str, seen: Seen, progress: float) -> dict[str, Tensor]:
    """The weighted terms of that paper's generator, by name."""
    if paper == "hidfd":
        return _with_discriminator(seen)
    if paper in ("dense", "co_boosting", "zskd"):
        return _of_ensembles(paper, seen)
    if paper == "dfkd_regression":
        return _of_numbers(seen)
    if paper in ("deepinversion", "fast_dfkd", "cmi"):
        return _inverted(paper, seen)
    if paper == "group_stack":
        return _of_one_task(seen)
    return _of_networks(paper, seen, progress)


def _of_one_task(seen: Seen) -> dict[str, Tensor]:
    """Of several tasks, where there is one: the classes."""
    sure, balance = certainty(seen.t).values()
    others = (1 - seen.t.softmax(1).max(1).values).mean() / (seen.t.shape[1] - 1)
    return {"task_one_hot": sure, "task_balance": 5 * balance, "task_sparsity": others}


def _of_numbers(seen: Seen) -> dict[str, Tensor]:
    """Of a paper whose teachers predict numbers."""
    deviation = 12**-0.5  # of a uniform value in [0, 1]
    far = ((seen.s - 0.5) / deviation).square().mean()
    wide = ((seen.x - 0.5) / deviation).square().sum()
    return {
        "squared_discrepancy": -((seen.t - seen.s) / deviation).square().mean(),
        "student_magnitude": LOUD["student_weight"] * far,
        "row_magnitude": LOUD["row_weight"] * wide,
    }


def _of_networks(paper: str, seen: Seen, progress: float) -> dict[str, Tensor]:
    """Of papers that train a generator network."""
    x, t, s, gap = seen.x, seen.t, seen.s, seen.gap
    sure, balance = certainty(t).values()
    match paper:
        case "cudfkd":
            ramp = min(max((progress - 0.25) / 0.5, 0.0), 1.0)
            alike = t.argmax(1) == s.argmax(1)
            return {
                "one_hot": sure,
                "bn_gap": gap,
                "class_balance": 20 * balance,
                "adversarial_kl": -62 * ramp * (alike * divergence(seen, 3)).mean(),
            }
        case "dafl":
            return {"one_hot": sure, "class_balance": 5 * balance}
        case "zskt":
            return {"adversarial_kl": -divergence(seen, 1).mean()}
        case "rdskd":
            p, half = t.softmax(1), len(t) // 2
            way = 4 * (x[half:] - x[:half])
            moved = (p[half:] - p[:half]).square().sum() / way.square().sum()
            gained = {n: v - seen.before.get(n, 0.0) for n, v in certainty(t).items()}
            return {n: g.exp() for n, g in gained.items()} | {"mode_seeking": moved.sqrt()}
        case "dfq":
            fixed = {"adversarial_kl": -divergence(seen, 1).mean(), "one_hot": sure}
            return fixed | {"class_balance": 20 * balance, "bn_gap": LOUD["bn_weight"] * gap}
        case "ddad":
            fixed = {"logit_discrepancy": -centred_distance(t, s), "one_hot": sure}
            return fixed | {"bn_gap": LOUD["bn_weight"] * gap}
        case "pre_dfkd":
            everything = torch.ones(len(t), dtype=torch.bool)
            apart = jensen_shannon(t.detach(), s, everything).mean()
            return {"one_hot": sure, "class_balance": 5 * balance, "jensen_shannon": 1 - apart}
        case "ta_dfkd":
            return {
                "jensen_shannon": 1 - jensen_shannon(t, s, confident()(t.detach())).mean(),
                "bn_gap": LOUD["bn_weight"] * gap,
                "total_variation": LOUD["tv_weight"] * variation(x),
                "l2_norm": LOUD["l2_weight"] * (4 * x - 2).square().sum().sqrt(),
            }
        case "dfad":
            return {"logit_discrepancy": -centred_distance(t, s)}
    raise ValueError(f"nobody has written {paper} out")


def _with_discriminator(seen: Seen) -> dict[str, Tensor]:
    """Of HiDFD."""
    assert seen.discriminator is not None
    assert seen.class_targets is not None
    verdict, classes = seen.discriminator(seen.x), seen.t.shape[1]
    n = seen.before.get("drawn", torch.full((classes,), 50.0))
    weight = 0.01 / (1 - 0.99 ** n.double())
    p, rows = seen.t.softmax(1).mean(0), range(len(seen.x))
    sides = verdict.class_by_side.log_softmax(1)
    public, generated = (sides[rows, 2 * seen.class_targets + i] for i in (0, 1))
    return {
        "adversarial_realness": -verdict.score.mean(),
        "classwise_realness": (generated - public).mean(),
        "category_frequency": 0.1 * classes * (weight / weight.sum() * p * p.log()).sum(),
    }


def _of_ensembles(paper: str, seen: Seen) -> dict[str, Tensor]:
    """Of papers that began with several teachers, or with one's weights."""
    t, s, everything, targets = seen.t, seen.s, range(len(seen.t)), seen.class_targets
    assert targets is not None
    if paper == "dense":
        apart = divergence(seen, 1) * (t.argmax(1) != s.argmax(1))
        certain = -t.log_softmax(1)[everything, targets].mean()
        gap = LOUD["bn_weight"] * seen.gap
        return {"target_class": certain, "boundary_support": -apart.mean(), "bn_gap": gap}
    if paper == "co_boosting":
        p = t.softmax(1)[everything, targets]
        hard = (-(1 - p.detach()) * p.log()).mean()
        return {"hard_class": hard, "adversarial_kl": -divergence(seen, 3).mean()}
    y = targets if targets.ndim == 2 else torch.eye(t.shape[1])[targets]
    return {"target_class": -(y * (t / 20).log_softmax(1)).sum(1).mean()}


def _inverted(paper: str, seen: Seen) -> dict[str, Tensor]:
    """Of papers whose images are to show a class."""
    x, t, s = seen.x, seen.t, seen.s
    target = -t.log_softmax(1)[range(len(t)), seen.class_targets].mean()
    both = {"target_class": target, "bn_gap": LOUD["bn_weight"] * seen.gap}
    if paper == "deepinversion":
        everything = torch.ones(len(t), dtype=torch.bool)
        return both | {
            "total_variation": LOUD["tv_weight"] * variation(x),
            "l2_norm": LOUD["l2_weight"] * (4 * x - 2).square().sum().sqrt(),
            "jensen_shannon": LOUD["adversarial_weight"]
            * (1 - jensen_shannon(t, s, everything).sum(1).mean()),
        }
    alike = t.argmax(1) == s.argmax(1)
    opposed = -LOUD["adversarial_weight"] * (alike * divergence(seen, 1)).mean()
    if paper == "cmi":
        return both | {"adversarial_kl": opposed}
    return both | {"target_class": 0.5 * target, "adversarial_kl": opposed}
