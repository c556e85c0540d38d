"""Partitions of a data set among institutions: IID, Dirichlet, shards, by column.

A partition is a tuple of index tensors, one for each institution, int64 and increasing; together
they contain every sample once. Institutions may also know only some of the classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedkd.errors import SettingsError

DRAWS = 200
"""Dirichlet partitions drawn before one without a nearly empty institution is given up."""

SMALLEST_ALPHA = 0.01
"""Below it, gamma variates underflow and proportions are no longer numbers."""

Indices: TypeAlias = NDArray[np.int64]

LEAST = 2
"""Training samples of an institution: batch norm has no variance of one."""


def partition(
    labels: Tensor,
    count: int,
    how: str = "dirichlet",
    *,
    alpha: float = 0.5,
    shards_per_institution: int = 2,
    seed: int = 0,
    least: int = LEAST,
) -> tuple[Tensor, ...]:
    """Partition N training samples; the same arguments give the same partition.

    Args:
        labels: (N,) int64.
        count: institutions, >= 1.
        how: ``iid``: shuffled, equal parts. ``dirichlet``: each class is divided in proportions
            drawn from Dir(alpha, ..., alpha) (Hsu, Qi and Brown, arXiv 1909.06335, per class).
            ``shards``: samples sorted by label, cut into equal shards, some for each institution
            (McMahan et al., AISTATS 2017).
        alpha: concentration, >= 0.01; small is skewed.
        shards_per_institution: >= 1.
        seed: 0 to 2**32 - 1.
        least: samples that every institution must have, >= 1; Dirichlet partitions are drawn
            again until they do.

    Returns:
        One index tensor for each institution.

    Raises:
        SettingsError: no such partition, an impossible number, or fewer than ``least`` samples.
    """
    if how not in ("iid", "dirichlet", "shards"):
        raise SettingsError(f"unknown partition {how!r}; choose iid, dirichlet or shards")
    if how != "iid" and (labels.is_floating_point() or labels.ndim > 1):
        what = "numbers" if labels.is_floating_point() else "several tasks"
        raise SettingsError(
            f"partition {how!r} is by class, and these data have {what}; choose iid or column"
        )
    if count < 1 or least < 1 or shards_per_institution < 1:
        raise SettingsError(
            f"partition into {count} institutions of {shards_per_institution} shards and "
            f"at least {least} images; each must be 1 or more"
        )
    if not 0 <= seed < 2**32:
        raise SettingsError(f"partition seed {seed}; expected 0 to {2**32 - 1}")
    if not SMALLEST_ALPHA <= alpha < float("inf"):
        raise SettingsError(f"alpha = {alpha}; expected a number from {SMALLEST_ALPHA} up")
    # RandomState's stream is promised never to change, unlike that of numpy's newer generators,
    # so that a partition published by its seed stays what it was.
    rng = np.random.RandomState(seed)
    known = labels.numpy()
    parts: Sequence[Indices]
    if how == "iid":
        parts = np.array_split(rng.permutation(len(known)), count)
    elif how == "shards":
        parts = _shards(known, count, shards_per_institution, rng)
    else:
        parts = _until_filled(lambda: _dirichlet(known, count, alpha, rng), least)
    if min(len(part) for part in parts) < least:
        raise SettingsError(
            f"{len(known)} images leave one of {count} institutions with fewer than {least}; "
            f"take fewer institutions" + (" or a larger alpha" if how == "dirichlet" else "")
        )
    return tuple(torch.tensor(np.sort(part), dtype=torch.int64) for part in parts)


def partition_by_column(values: Tensor, count: int) -> tuple[Tensor, ...]:
    """Partition N training rows by one column: the lowest go to the first institution, and so on.

    Args:
        values: (N,) of that column.
        count: institutions, 1 to N.

    Raises:
        SettingsError: more institutions than rows.
    """
    if not 1 <= count <= len(values):
        raise SettingsError(f"{len(values)} rows for {count} institutions; take fewer institutions")
    order = values.argsort(stable=True)
    return tuple(part.sort().values for part in order.tensor_split(count))


@dataclass(frozen=True, eq=False)
class Assignment:
    """Training samples, test samples and known classes of each institution."""

    parts: Sequence[Tensor]
    """Indices of training samples, int64 and increasing."""
    tests: Sequence[Tensor]
    """Indices of test samples, likewise."""
    known: Sequence[Sequence[int]]
    """Numbers of the classes that it knows."""


def assign_samples(
    parts: Sequence[Tensor],
    train_labels: Tensor,
    test_labels: Tensor,
    classes: int,
    sets: Sequence[Sequence[str]] = (),
    names: Sequence[str] = (),
) -> Assignment:
    """Assign training and test samples to institutions, each of which may know some classes only.

    Args:
        parts: one index tensor for each institution.
        train_labels: (N,) int64.
        test_labels: (M,) int64.
        classes: K.
        sets: names of the classes that an institution knows, assigned round-robin; none: all know
            all classes.
        names: of the K classes; none: their numbers.

    Raises:
        SettingsError: see `known_classes`; or an institution has fewer than `LEAST` training
            samples of the classes that it knows.
    """
    count = len(parts)
    tests = [torch.arange(len(test_labels))[index::count] for index in range(count)]
    if not sets:
        return Assignment(parts, tests, [tuple(range(classes))] * count)
    known = known_classes(sets, count, names or tuple(map(str, range(classes))))
    own = reassign_unknown_classes(parts, train_labels, known)
    for index, part in enumerate(own):
        if len(part) < LEAST:
            raise SettingsError(
                f"institution {index}, which knows {', '.join(sets[index % len(sets)])}, has "
                f"{len(part)} samples of these in this partition, expected {LEAST} or more; give "
                "it more labels, or choose another partition, alpha or seed"
            )
    return Assignment(
        own,
        reassign_unknown_classes(tests, test_labels, known),
        known,
    )


def known_tasks(sets: Sequence[Sequence[str]], index: int, names: Sequence[str]) -> tuple[int, ...]:
    """Tasks that institution ``index`` labels, from sets assigned round-robin, in their order.

    Args:
        sets: of names; none: every institution labels all tasks.
        index: from 0.
        names: of the tasks of the data set.

    Raises:
        SettingsError: a name that is no task of the data.
    """
    if not sets:
        return tuple(range(len(names)))
    own = sets[index % len(sets)]
    for name in own:
        if name not in names:
            raise SettingsError(
                f"tasks name {name!r}; the data have "
                f"{', '.join(names) or 'one task, whose classes are all there is'}; name some of "
                "those"
            )
    return tuple(names.index(name) for name in own)


def known_classes(
    sets: Sequence[Sequence[str]], count: int, names: Sequence[str]
) -> tuple[tuple[int, ...], ...]:
    """Classes that each of ``count`` institutions knows, from sets assigned round-robin.

    Args:
        sets: at least one.
        count: institutions.
        names: of the classes of the data set, (K,); their numbers where they have no names.

    Returns:
        Numbers of its classes for each institution, in the order of its set.

    Raises:
        SettingsError: a name that is no class, or a class that no institution knows.
    """
    numbers = {name: number for number, name in enumerate(names)}
    assigned = [sets[index % len(sets)] for index in range(count)]
    for name in (name for own in assigned for name in own):
        if name not in numbers:
            raise SettingsError(
                f"labels name the class {name!r}; the data have {len(names)}, called "
                f"{names[0]} to {names[-1]}; name some of those"
            )
    named = {name for own in assigned for name in own}
    if missing := [name for name in numbers if name not in named]:
        raise SettingsError(
            f"no institution knows {', '.join(missing)}; put every class of the data into the "
            "labels of one at least"
        )
    return tuple(tuple(numbers[name] for name in own) for own in assigned)


def reassign_unknown_classes(
    parts: Sequence[Tensor], labels: Tensor, known: Sequence[Sequence[int]]
) -> tuple[Tensor, ...]:
    """Reassign samples so that every institution knows the classes of all its samples.

    A sample of a class that its institution does not know goes to those that know it, round-robin.

    Args:
        parts: one index tensor for each institution.
        labels: (N,) int64.
        known: classes of each institution; at least one institution knows each class.
    """
    holder = torch.full((len(labels),), -1)
    for index, part in enumerate(parts):
        holder[part] = index
    for label in range(int(labels.max()) + 1):
        able = torch.tensor([index for index, own in enumerate(known) if label in own])
        stray = ((labels == label) & (holder >= 0) & ~torch.isin(holder, able)).nonzero()[:, 0]
        holder[stray] = able[torch.arange(len(stray)) % len(able)]
    return tuple((holder == index).nonzero()[:, 0] for index in range(len(parts)))


def _until_filled(draw: Callable[[], list[Indices]], least: int) -> list[Indices]:
    """The first draw in which every part has ``least`` samples, or the last draw."""
    for _ in range(DRAWS - 1):
        parts = draw()
        if min(len(part) for part in parts) >= least:
            return parts
    return draw()


def _dirichlet(
    labels: NDArray[Any], count: int, alpha: float, rng: np.random.RandomState
) -> list[Indices]:
    parts: list[list[Indices]] = [[] for _ in range(count)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet([alpha] * count)
        cuts = (np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        for part, share in zip(parts, np.split(members, cuts), strict=True):
            part.append(share)
    return [np.concatenate(part) for part in parts]


def _shards(
    labels: NDArray[Any], count: int, each: int, rng: np.random.RandomState
) -> list[Indices]:
    shuffled = rng.permutation(len(labels))
    ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
    shards = np.array_split(ordered, count * each)
    assigned = rng.permutation(count * each).reshape(count, each)
    return [np.concatenate([shards[shard] for shard in own]) for own in assigned]
