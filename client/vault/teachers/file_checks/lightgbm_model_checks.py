"""Checks of a LightGBM model before LightGBM reads it.

LightGBM believes what such a file says of its trees, and a wrong index ends the process or worse.
So the trees are gone through here, and LightGBM is given a new text of what was checked, no more.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_FEATURES = 4096
MAX_OUTPUTS = 10_000
ONE_OUTPUT = frozenset(
    {
        *("binary", "cross_entropy", "cross_entropy_lambda", "fair", "gamma", "huber", "mape"),
        *("lambdarank", "poisson", "quantile", "rank_xendcg", "regression", "regression_l1"),
        "tweedie",
    }
)
SEVERAL_OUTPUTS = frozenset({"multiclass", "multiclassova"})
BY_SIGMOID = frozenset({"binary", "multiclassova"})
SQUARE_ROOT = "sqrt"
"""Word of a regression that has learned the square root of its numbers."""
CATEGORICAL, KINDS = 1, 16
"""Bits of a decision: whether it is by category; its kinds are below 16."""
NODE_FLOATS, LEAF_FLOATS = ("split_gain", "threshold"), ("leaf_value",)
NODE_INTEGERS = ("split_feature", "decision_type", "left_child", "right_child")
HEADER = ("num_class", "num_tree_per_iteration", "max_feature_idx")


@dataclass(frozen=True)
class CheckedLightgbm:
    """A checked model.

    Attributes:
        text: for LightGBM.
        objective: its first word.
        outputs: numbers that it gives for a row.
        names: (F,).
        categories: what the codes of a column mean, by its place.
    """

    text: str
    objective: str
    outputs: int
    names: tuple[str, ...]
    categories: dict[int, Sequence[Any]]


def checked_model(text: str) -> CheckedLightgbm:
    """The model in a text that LightGBM's ``save_model`` wrote.

    Raises:
        ValueError: something is out of bounds.
        KeyError, TypeError, RecursionError: it is no such model.
    """
    head, *blocks = re.split(r"^Tree=\d+$", text.replace("\r\n", "\n"), flags=re.MULTILINE)
    if not blocks:
        raise ValueError("it has no trees")
    last, _, rest = blocks[-1].partition("end of trees")
    blocks[-1] = last
    header = _values(head)
    numbers = {key: int(header[key]) for key in HEADER}
    features = numbers["max_feature_idx"] + 1
    names = tuple(header["feature_names"].split(" "))
    _require(0 < features <= MAX_FEATURES and len(names) == features, "its columns")
    outputs, per_round = numbers["num_class"], numbers["num_tree_per_iteration"]
    _require(0 < outputs <= MAX_OUTPUTS and outputs == per_round, "its outputs")
    _require(len(blocks) % per_round == 0, "its rounds")
    objective = _objective(header.get("objective", ""), outputs)
    infos = header["feature_infos"].split(" ")
    by_category = [place for place, info in enumerate(infos) if _is_categories(info)]
    trees = [_tree(_values(block), features) for block in blocks]
    average = "average_output" in head.splitlines()
    lines = ["tree", "version=v4", *(f"{key}={numbers[key]}" for key in HEADER[:2])]
    lines += ["label_index=0", f"max_feature_idx={features - 1}", f"objective={objective}"]
    lines += ["average_output"] if average else []
    own = [f"column_{place}" for place in range(features)]
    lines += [f"feature_names={' '.join(own)}", f"feature_infos={' '.join(['none'] * features)}"]
    lines += [f"\nTree={place}\n{tree}\n" for place, tree in enumerate(trees)]
    lines += ["end of trees", ""]
    categories = _categories(rest, by_category)
    return CheckedLightgbm("\n".join(lines), objective.split(" ")[0], outputs, names, categories)


def _require(holds: Any, what: str) -> None:
    if not holds:
        raise ValueError(f"{what} cannot be")


def _objective(line: str, outputs: int) -> str:
    """Write anew what LightGBM needs of an objective to predict.

    It believes the number of classes in this line, and has memory for those of the header.
    """
    name, *words = line.split(" ")
    if not line:
        return ""  # of a user's own: LightGBM adds up the leaves, and that is all
    _require(name in (SEVERAL_OUTPUTS if outputs > 1 else ONE_OUTPUT), "its objective")
    own = [f"num_class:{outputs}"] if outputs > 1 else []
    if name in BY_SIGMOID:
        slope = float(next((w[len("sigmoid:") :] for w in words if w.startswith("sigmoid:")), 1))
        _require(0 < slope < float("inf"), "its sigmoid")
        own.append(f"sigmoid:{slope!r}")
    if name == "regression" and SQUARE_ROOT in words:
        own.append(SQUARE_ROOT)
    return " ".join([name, *own])


def _values(block: str) -> dict[str, str]:
    lines = (line.partition("=") for line in block.splitlines())
    return {key: value for key, equals, value in lines if equals}


def _is_categories(info: str) -> bool:
    return info != "none" and not info.startswith("[")


def _array(values: dict[str, str], key: str, kind: type, count: int) -> NDArray[Any]:
    found = np.array([kind(word) for word in values.get(key, "").split()])
    _require(len(found) == count, f"a tree's {key}")
    return found


def _tree(values: dict[str, str], features: int) -> str:
    """The lines of a tree, checked."""
    leaves, by_category = int(values["num_leaves"]), int(values["num_cat"])
    _require(leaves >= 1 and by_category >= 0, "a tree's size")
    _require(values.get("is_linear", "0") == "0", "linear models in leaves")
    whole: dict[str, NDArray[Any]] = {}
    real = {"leaf_value": _array(values, "leaf_value", float, leaves)}
    if leaves > 1:
        whole = {key: _array(values, key, int, leaves - 1) for key in NODE_INTEGERS}
        real |= {key: _array(values, key, float, leaves - 1) for key in NODE_FLOATS}
        _check_nodes(whole["left_child"], whole["right_child"], leaves)
        used, kinds = whole["split_feature"], whole["decision_type"]
        _require((used >= 0).all() and (used < features).all(), "a tree's columns")
        _require((kinds >= 0).all() and (kinds < KINDS).all(), "a tree's decisions")
        split = real["threshold"][kinds & CATEGORICAL == CATEGORICAL]
        fits = (split >= 0).all() and (split < by_category).all() and (split % 1 == 0).all()
        _require(fits, "a tree's categories")
    _require(all(not np.isnan(each).any() for each in real.values()), "a tree's numbers")
    if by_category:
        whole |= _splits_by_category(values, by_category)
    lines = [f"num_leaves={leaves}", f"num_cat={by_category}"]
    lines += [f"{key}={' '.join(map(str, each.tolist()))}" for key, each in whole.items()]
    lines += [f"{key}={' '.join(map(repr, each.tolist()))}" for key, each in real.items()]
    return "\n".join([*lines, "is_linear=0", f"shrinkage={float(values.get('shrinkage', 1))!r}"])


def _check_nodes(left: NDArray[Any], right: NDArray[Any], leaves: int) -> None:
    """Every node and leaf is reached once, so that no walk is endless."""
    seen, waiting = {0}, [0]
    while waiting:
        node = waiting.pop()
        for child in (int(left[node]), int(right[node])):
            _require(-leaves <= child < leaves - 1 and child not in seen, "a tree's nodes")
            seen.add(child)
            if child >= 0:
                waiting.append(child)
    _require(len(seen) == 2 * leaves - 1, "a tree's nodes")


def _splits_by_category(values: dict[str, str], count: int) -> dict[str, NDArray[Any]]:
    bounds = _array(values, "cat_boundaries", int, count + 1)
    _require(bounds[0] == 0 and (np.diff(bounds) > 0).all(), "a tree's categories")
    bits = _array(values, "cat_threshold", int, int(bounds[-1]))
    _require((bits >= 0).all() and (bits < 1 << 32).all(), "a tree's categories")
    return {"cat_boundaries": bounds, "cat_threshold": bits}


def _categories(rest: str, columns: Sequence[int]) -> dict[int, Sequence[Any]]:
    """What codes mean: from the line that LightGBM writes where it was given a DataFrame."""
    line = next((x for x in rest.splitlines() if x.startswith("pandas_categorical:")), "")
    known = json.loads(line.partition(":")[2] or "null") or []
    _require(isinstance(known, list) and all(isinstance(k, list) for k in known), "its categories")
    if not known:
        return {}
    _require(len(known) == len(columns), "categories of other columns than the model has")
    return dict(zip(columns, known, strict=True))
