"""Files of boosted trees that somebody altered: refused in one line before a native reader."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import pytest
import xgboost

from fedkd.client.institution import Institution
from fedkd.client.vault.external_vault import ExternalVault
from fedkd.client.vault.teachers.file_checks import lightgbm_model_checks, xgboost_model_checks
from fedkd.client.vault.teachers.teacher_spec import spec_from_table
from fedkd.errors import DataError, SettingsError
from fedkd.privacy import Policy
from tests.support.hospital_table import NAMES, patients, write_schemas

PATIENTS = patients()
X = PATIENTS[[*NAMES]].assign(ward=PATIENTS["ward"].astype("category"))
LEFT, INNER = "left_children", 1
REFUSED = (KeyError, TypeError, ValueError, OverflowError, RecursionError)
"""What an opener turns into one line."""


@pytest.fixture(scope="module")
def boosted() -> bytes:
    model = xgboost.XGBRegressor(n_estimators=3, max_depth=3, enable_categorical=True)
    return bytes(model.fit(X, PATIENTS["stay"]).get_booster().save_raw("json"))


@pytest.fixture(scope="module")
def light() -> str:
    model = lightgbm.LGBMRegressor(n_estimators=3, max_depth=3, verbose=-1)
    return str(model.fit(X, PATIENTS["stay"]).booster_.model_to_string())


def opened(name: str, content: bytes, folder: Path, **words: Any) -> None:
    write_schemas(folder)
    (folder / name.partition(":")[2]).write_bytes(content)
    own = spec_from_table({"source": name, "schema": "stay.toml", **words}, folder)
    Institution("north", ExternalVault(own), Policy())


def tree(model: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = model["learner"]["gradient_booster"]["model"]["trees"][0]
    return found


def endless(model: dict[str, Any]) -> None:
    tree(model)[LEFT][INNER] = 0


def beyond(model: dict[str, Any]) -> None:
    tree(model)[LEFT][INNER] = 1 << 30


def negative(model: dict[str, Any]) -> None:
    tree(model)[LEFT][INNER] = -7


def other_column(model: dict[str, Any]) -> None:
    tree(model)["split_indices"][0] = 4000


def too_short(model: dict[str, Any]) -> None:
    tree(model)["split_conditions"].pop()


def many_nodes(model: dict[str, Any]) -> None:
    tree(model)["tree_param"]["num_nodes"] = str(1 << 40)


def other_categories(model: dict[str, Any]) -> None:
    trees = model["learner"]["gradient_booster"]["model"]["trees"]
    split = next(each for each in trees if each["categories_sizes"])
    split["categories_sizes"][0] = 1 << 30


def huge_category(model: dict[str, Any]) -> None:
    trees = model["learner"]["gradient_booster"]["model"]["trees"]
    split = next(each for each in trees if each["categories"])
    split["categories"][0] = (1 << 31) - 1


def another_output(model: dict[str, Any]) -> None:
    model["learner"]["gradient_booster"]["model"]["tree_info"][0] = 9


def other_rounds(model: dict[str, Any]) -> None:
    model["learner"]["gradient_booster"]["model"]["iteration_indptr"][-1] = 1 << 30


def not_finite(model: dict[str, Any]) -> None:
    tree(model)["split_conditions"][0] = float("nan")


def many_columns(model: dict[str, Any]) -> None:
    model["learner"]["learner_model_param"]["num_feature"] = str(1 << 40)


def other_booster(model: dict[str, Any]) -> None:
    model["learner"]["gradient_booster"]["name"] = "gblinear"


def no_base(model: dict[str, Any]) -> None:
    model["learner"]["learner_model_param"]["base_score"] = "[" * 100


@pytest.mark.parametrize(
    "change",
    [
        *(endless, beyond, negative, other_column, too_short, many_nodes, other_categories),
        *(huge_category, another_output, other_rounds, not_finite, many_columns, other_booster),
        no_base,
    ],
)
def test_a_tree_of_xgboost_that_cannot_be_is_refused(
    boosted: bytes, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    opened("xgboost:own.json", boosted, tmp_path)
    model = json.loads(boosted)
    change(model)
    with pytest.raises(DataError, match="cannot be read as a model of XGBoost's") as caught:
        opened("xgboost:own.json", json.dumps(model).encode(), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "altered"),
    [
        (r"left_child=\S+", "left_child=0"),
        (r"left_child=\S+", "left_child=1073741824"),
        (r"right_child=\S+", "right_child=-1000000"),
        (r"split_feature=\S+", "split_feature=4000"),
        (r"num_leaves=\d+", "num_leaves=1099511627776"),
        (r"num_leaves=\d+", "num_leaves=2"),
        (r"leaf_value=\S+ ", "leaf_value="),
        (r"leaf_value=\S+", "leaf_value=nan"),
        (r"decision_type=\S+", "decision_type=77"),
        (r"cat_boundaries=0 1", "cat_boundaries=0 1000000"),
        (r"num_cat=\d+", "num_cat=0"),
        (r"max_feature_idx=3", "max_feature_idx=1099511627776"),
        (r"num_class=1", "num_class=1000000000"),
        (r"is_linear=0", "is_linear=1"),
        (r"objective=.*", "objective=../../etc/passwd"),
        (r"Tree=\d+", "Forest"),
        (r"tree\n", "\x00\n"),
    ],
)
def test_a_tree_of_lightgbm_that_cannot_be_is_refused(
    light: str, tmp_path: Path, line: str, altered: str
) -> None:
    opened("lightgbm:own.txt", light.encode(), tmp_path)
    changed, found = re.subn(line, altered, light)
    assert found
    if altered.startswith("\x00"):  # only trees are taken, so another first line changes nothing
        opened("lightgbm:own.txt", changed.encode(), tmp_path)
        return
    with pytest.raises(DataError, match="cannot be read as a model of LightGBM's") as caught:
        opened("lightgbm:own.txt", changed.encode(), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "altered"),
    [
        ({"objective": "multiclass", "num_class": 3}, "objective=multiclass num_class:2000000"),
        (
            {"objective": "multiclass", "num_class": 3},
            "objective=multiclass num_class:3 num_class:9",
        ),
        (
            {"objective": "multiclassova", "num_class": 3},
            "objective=multiclassova num_class:100000",
        ),
        ({"objective": "multiclassova", "num_class": 3}, "objective=multiclassova sigmoid:1.0"),
        ({"objective": "binary", "sigmoid": 0.5}, "objective=binary sigmoid:0.5 num_class:77"),
        ({"objective": "regression", "reg_sqrt": True}, "objective=regression sqrt num_class:77"),
        ({"objective": "poisson"}, "objective=poisson alpha:1e300"),
        ({"objective": "quantile", "alpha": 0.9}, "objective=quantile"),
    ],
)
def test_an_objective_predicts_by_what_its_trees_say_whatever_its_line_adds(
    settings: dict[str, Any], altered: str
) -> None:
    """LightGBM believes this line, and has memory for as many outputs as the header says."""
    rows = X.assign(ward=X["ward"].cat.codes).astype(float).to_numpy()
    classes = settings.get("num_class", 2)
    truth = PATIENTS["stay"].rank(pct=True).mul(classes - 1e-9).astype(int)
    data = lightgbm.Dataset(rows, truth)
    booster = lightgbm.train({**settings, "verbosity": -1, "num_threads": 1}, data, 3)
    text, found = re.subn(r"objective=.*", altered, booster.model_to_string())
    assert found
    checked = lightgbm_model_checks.checked_model(text)
    assert "77" not in checked.text.partition("Tree=")[0]
    said = lightgbm.Booster(model_str=checked.text).predict(rows)
    assert (said == booster.predict(rows)).all()


@pytest.mark.parametrize(
    "objective", ["multiclass num_class:1", "none", "regression_l3", "binary sigmoid:0", "\u00e9"]
)
def test_an_objective_of_lightgbm_that_cannot_be_is_refused(light: str, objective: str) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        lightgbm_model_checks.checked_model(re.sub("objective=.*", f"objective={objective}", light))


def test_altered_numbers_are_refused_or_give_a_model_that_answers(
    boosted: bytes, light: str
) -> None:
    """A wrong index would end this process: XGBoost and LightGBM check none."""
    rng, outcomes = random.Random(5), {"refused": 0, "answered": 0}
    rows = X.assign(ward=X["ward"].cat.codes).astype(float).to_numpy()[:5]
    for text in (boosted.decode(), light):
        spots = [found.span() for found in re.finditer(r"-?\d+", text)]
        for _ in range(150):
            start, end = rng.choice(spots)
            value = rng.choice([-2, -1, 0, 1, 3, 7, 65_535, 2**31 - 1, -(2**31), 10**12])
            changed = f"{text[:start]}{value}{text[end:]}"
            try:
                answer(changed, rows)
            except (*REFUSED, lightgbm.basic.LightGBMError):
                outcomes["refused"] += 1
            else:
                outcomes["answered"] += 1
    assert min(outcomes.values()) > 50, outcomes


def answer(text: str, rows: Any) -> None:
    if text.startswith("{"):
        checked = xgboost_model_checks.checked_model(text.encode())
        booster = xgboost.Booster()
        booster.load_model(bytearray(checked.text))
        if checked.features == rows.shape[1]:
            names, types = list(checked.names) or None, list(checked.types) or None
            booster.predict(xgboost.DMatrix(rows, feature_names=names, feature_types=types))
        return
    model = lightgbm_model_checks.checked_model(text)
    if len(model.names) == rows.shape[1]:
        lightgbm.Booster(model_str=model.text).predict(rows)


@pytest.mark.parametrize(
    ("source", "content", "says"),
    [
        ("xgboost:own.json", b"[" * 100_000, "cannot be read as a model of XGBoost's"),
        ("xgboost:own.json", b"\x80\x04\x95", "cannot be read as a model of XGBoost's"),
        ("lightgbm:own.txt", b"\xff\xfe", "cannot be read as a model of LightGBM's"),
        ("lightgbm:own.txt", b"", "cannot be read as a model of LightGBM's"),
        ("catboost:own.cbm", b"\x80\x04\x95", "is no .cbm"),
    ],
)
def test_what_is_no_model_is_refused(
    tmp_path: Path, source: str, content: bytes, says: str
) -> None:
    words = {"trusted": True} if source.startswith("catboost") else {}
    with pytest.raises(DataError, match=says) as caught:
        opened(source, content, tmp_path, **words)
    assert "\n" not in str(caught.value)


def test_binary_files_of_boosted_trees_are_opened_on_the_owner_s_word_alone(
    boosted: bytes, tmp_path: Path
) -> None:
    for source in ("xgboost:own.ubj", "catboost:own.cbm"):
        with pytest.raises(SettingsError, match="trusted = true"):
            opened(source, boosted, tmp_path)
