"""Checks of an XGBoost model in JSON before XGBoost reads it.

XGBoost believes what such a file says of its trees, and a wrong index ends the process or worse. So
the trees are gone through here, and XGBoost is given a new text of what was checked, no more.
"""

import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_FEATURES = 4096
MAX_CATEGORY = 65_535
"""Largest code of a category."""
NO_PARENT = 2_147_483_647
"""Of a root."""
FLOATS = ("split_conditions", "base_weights", "loss_changes", "sum_hessian")
INTEGERS = ("left_children", "right_children", "split_indices", "default_left")
OBJECTIVES = re.compile(r"(binary|multi|reg|count):[a-z]+")
FLOAT_LIST = re.compile(r"\[?-?[\d.]+(E-?\d+)?(,-?[\d.]+(E-?\d+)?)*\]?", re.IGNORECASE)
PARAMETER = re.compile(r"\[?[\w.:+-]{0,40}\]?")


@dataclass(frozen=True)
class CheckedXgboost:
    """A checked model.

    Attributes:
        text: JSON for XGBoost.
        objective: as XGBoost calls it.
        features: F.
        names: (F,), or none.
        types: (F,), or none.
        categories: what the codes of a column mean, by its place.
        iterations: how many of its rounds are used; 0: all.
    """

    text: bytes
    objective: str
    features: int
    names: tuple[str, ...]
    types: tuple[str, ...]
    categories: dict[int, Sequence[Any]]
    iterations: int


def checked_model(content: bytes) -> CheckedXgboost:
    """The model in a JSON text.

    Raises:
        ValueError: something is out of bounds.
        KeyError, TypeError, RecursionError: it is no such model.
    """
    learner = json.loads(content)["learner"]
    booster, parameters = learner["gradient_booster"], learner["learner_model_param"]
    if booster["name"] != "gbtree":
        raise ValueError("it is no gbtree")
    features, groups = int(parameters["num_feature"]), max(1, int(parameters["num_class"]))
    targets, base = int(parameters.get("num_target", 1)), str(parameters["base_score"])
    _require(0 < features <= MAX_FEATURES and 0 < groups * targets <= 10_000, "its size")
    _require(min(groups, targets) == 1 and bool(FLOAT_LIST.fullmatch(base)), "its base score")
    names, types = _texts(learner, "feature_names"), _texts(learner, "feature_types")
    _require(len(names) in (0, features) and len(types) in (0, features), "its columns")
    objective = learner["objective"]
    _require(bool(OBJECTIVES.fullmatch(objective["name"])), "its objective")
    model = _model(booster["model"], features, groups * targets)
    checked = {
        "learner": {
            "attributes": {},
            "feature_names": list(names),
            "feature_types": list(types),
            "gradient_booster": {"model": model, "name": "gbtree"},
            "learner_model_param": {
                "base_score": base,
                "boost_from_average": "1",
                "num_class": str(0 if groups == 1 else groups),
                "num_feature": str(features),
                "num_target": str(targets),
            },
            "objective": _objective(objective),
        },
        "version": [3, 0, 0],
    }
    best = learner.get("attributes", {}).get("best_iteration")
    rounds = len(model["iteration_indptr"]) - 1
    return CheckedXgboost(
        json.dumps(checked).encode(),
        objective["name"],
        features,
        names,
        types,
        _categories(booster["model"].get("cats", {}), types),
        min(rounds, int(best) + 1) if best is not None else 0,
    )


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"{what} cannot be")


def _texts(learner: dict[str, Any], key: str) -> tuple[str, ...]:
    found = tuple(learner.get(key) or ())
    _require(all(isinstance(each, str) for each in found), key)
    return found


def _objective(found: dict[str, Any]) -> dict[str, Any]:
    """Its name and its parameters, which are short words."""
    checked: dict[str, Any] = {"name": found["name"]}
    for key, value in found.items():
        if isinstance(value, dict):
            words = {str(k): str(v) for k, v in value.items()}
            _require(all(PARAMETER.fullmatch(word) for word in words.values()), "its objective")
            checked[key] = words
    return checked


def _model(found: dict[str, Any], features: int, outputs: int) -> dict[str, Any]:
    trees = [_tree(tree, place, features) for place, tree in enumerate(found["trees"])]
    group = [int(each) for each in found["tree_info"]]
    _require(len(group) == len(trees) and all(0 <= g < outputs for g in group), "its trees")
    parallel = int(found["gbtree_model_param"].get("num_parallel_tree", 1))
    per_round = max(1, parallel) * outputs
    starts = found.get("iteration_indptr") or [*range(0, len(trees) + 1, per_round)]
    starts = [int(each) for each in starts]
    _require(starts[0] == 0 and starts[-1] == len(trees), "its rounds")
    _require(all(a <= b for a, b in itertools.pairwise(starts)), "its rounds")
    return {
        "gbtree_model_param": {
            "num_parallel_tree": str(max(1, parallel)),
            "num_trees": str(len(trees)),
        },
        "iteration_indptr": starts,
        "tree_info": group,
        "trees": trees,
    }


def _tree(found: dict[str, Any], place: int, features: int) -> dict[str, Any]:
    """A tree without the nodes that XGBoost has deleted."""
    parameters = found["tree_param"]
    nodes = int(parameters["num_nodes"])
    _require(int(parameters.get("size_leaf_vector", 1)) in (0, 1) and nodes >= 1, "a tree")
    tree: dict[str, Any] = {key: [int(n) for n in found[key]] for key in INTEGERS}
    tree |= {key: [float(n) for n in found[key]] for key in FLOATS}
    tree["split_type"] = [int(n) for n in found.get("split_type") or [0] * nodes]
    _require(all(len(values) == nodes for values in tree.values()), "a tree's size")
    kept = _nodes(tree["left_children"], tree["right_children"])
    number = {old: new for new, old in enumerate(kept)}
    tree = {key: [values[old] for old in kept] for key, values in tree.items()}
    for key in ("left_children", "right_children"):
        tree[key] = [number[child] if child >= 0 else -1 for child in tree[key]]
    tree["parents"] = _parents(tree["left_children"], tree["right_children"])
    _require(all(math.isfinite(n) for key in FLOATS for n in tree[key]), "a tree's numbers")
    for key in ("default_left", "split_type"):
        _require(set(tree[key]) <= {0, 1}, "a tree's splits")
    _require(all(0 <= f < features for f in tree["split_indices"]), "a tree's columns")
    tree |= _splits_by_category(found, number)
    inner = [node for node, child in enumerate(tree["left_children"]) if child >= 0]
    by_category = [node for node in inner if tree["split_type"][node]]
    _require(by_category == tree["categories_nodes"], "a tree's categories")
    sizes = {"num_nodes": str(len(kept)), "num_feature": str(features)}
    return {
        **tree,
        "id": place,
        "tree_param": {**sizes, "num_deleted": "0", "size_leaf_vector": "1"},
    }


def _nodes(left: list[int], right: list[int]) -> list[int]:
    """Nodes from the root on, each reached once, so that no walk is endless."""
    found, seen = [0], {0}
    for node in found:
        children = (left[node], right[node])
        if children == (-1, -1):
            continue
        for child in children:
            _require(0 < child < len(left) and child not in seen, "a tree's nodes")
            seen.add(child)
            found.append(child)
    return found


def _parents(left: list[int], right: list[int]) -> list[int]:
    parents = [NO_PARENT] * len(left)
    for node, children in enumerate(zip(left, right, strict=True)):
        for child in children:
            if child >= 0:
                parents[child] = node
    return parents


def _splits_by_category(found: dict[str, Any], number: dict[int, int]) -> dict[str, list[int]]:
    """Splits by category of the nodes that are kept, in their new order."""
    keys = ("categories", "categories_nodes", "categories_segments", "categories_sizes")
    codes, at, starts, sizes = ([int(n) for n in found.get(key) or ()] for key in keys)
    _require(len(at) == len(starts) == len(sizes) and len(set(at)) == len(at), "its categories")
    _require(all(0 <= code <= MAX_CATEGORY for code in codes), "its categories")
    parts: dict[int, list[int]] = {}
    for node, start, size in zip(at, starts, sizes, strict=True):
        _require(0 <= start < start + size <= len(codes), "its categories")
        if node in number:
            parts[number[node]] = codes[start : start + size]
    nodes = sorted(parts)
    lengths = [len(parts[node]) for node in nodes]
    return {
        "categories": [code for node in nodes for code in parts[node]],
        "categories_nodes": nodes,
        "categories_segments": [0, *itertools.accumulate(lengths)][: len(nodes)],
        "categories_sizes": lengths,
    }


def _categories(found: dict[str, Any], types: Sequence[str]) -> dict[int, Sequence[Any]]:
    """What codes mean: texts come as bytes with offsets, numbers as they are."""
    known: dict[int, Sequence[Any]] = {}
    for place, kind in enumerate(types):
        if kind != "c":
            continue
        _require("enc" in found, "columns of codes without their categories")
        encoded = found["enc"][place]
        values = [int(n) for n in encoded["values"]]
        if offsets := [int(n) for n in encoded.get("offsets") or ()]:
            text = bytes(n % 256 for n in values)
            pairs = itertools.pairwise(offsets)
            known[place] = [text[a:b].decode() for a, b in pairs]
        else:
            known[place] = values
    return known
