"""Teachers that read rows: each format answers as the model does on a DataFrame of them."""

import logging
import sys
import tomllib
from pathlib import Path
from typing import Any

import catboost
import lightgbm
import numpy as np
import onnx
import pytest
import torch
import xgboost
from safetensors.torch import save_file
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from skops.io import dump
from torch import Tensor, nn

from fedkd.client.institution import Institution
from fedkd.client.vault.external_vault import ExternalVault
from fedkd.client.vault.teachers.adapters.table_layout import TableLayout, level_values
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec, spec_from_table
from fedkd.client.vault.vault_settings import Assets
from fedkd.data.table_schema import parse_schema
from fedkd.errors import DataError, SettingsError
from fedkd.models import build_table_network
from fedkd.privacy import Policy
from fedkd.protocol import Ask, Column, PullBack, Reason, Refusal, Reply, Signal, decode_rows
from tests.support.hospital_table import (
    COLUMNS,
    NAMES,
    OUTCOME,
    STAY,
    natural,
    patients,
    write_schemas,
)

LOGITS = Signal.LOGITS
PATIENTS = patients()
X, STAYS, OUTCOMES = PATIENTS[[*NAMES]], PATIENTS["stay"], PATIENTS["outcome"]
ILL = (OUTCOMES == "ill").astype(int)
"""As numbers of the schema's classes: 0 well, 1 ill."""
CODED = X.assign(ward=X["ward"].map({"intensive": 0, "general": 1, "burns": 2})).astype(float)
CATEGORIES = X.assign(ward=X["ward"].astype("category"))
TREES: dict[str, Any] = {"trusted_types": ["sklearn.tree._tree.Tree"]}
"""Which skops does not trust by itself."""
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:lightgbm")


def rows(count: int = 200) -> Tensor:
    rng = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, 1, 1, 4), generator=rng, dtype=torch.uint8)


ROWS = rows()
FRAME = natural(ROWS.flatten(1).numpy())
FRAME_CODED = FRAME.assign(ward=FRAME["ward"].map({"intensive": 0, "general": 1, "burns": 2}))
FRAME_CODED = FRAME_CODED.astype(float)


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    write_schemas(tmp_path)
    return tmp_path


def spec(source: str, shelf: Path, schema: str, **words: Any) -> TeacherSpec:
    return spec_from_table({"source": source, "schema": f"{schema}.toml", **words}, shelf)


def served(own: TeacherSpec, policy: Policy | None = None) -> Institution:
    return Institution("north", ExternalVault(own), policy or Policy(pull_back=True))


def said(own: TeacherSpec) -> np.ndarray[Any, Any]:
    reply = served(own).answer(Ask(ROWS, frozenset({LOGITS}), exact=True))
    assert isinstance(reply, Reply), reply
    return reply.signals[LOGITS].double().numpy()


def same_numbers(own: TeacherSpec, expected: Any) -> None:
    """Shares of the range of 0 to 60 days."""
    share = np.clip(np.asarray(expected, float).reshape(-1, 1) / 60, 0, 1)
    np.testing.assert_allclose(said(own), share, rtol=1e-4, atol=1e-5)


def same_classes(own: TeacherSpec, ill: Any) -> None:
    """Probabilities of the schema's classes, well and ill, from those of ill."""
    expected = np.stack([1 - np.asarray(ill, float), np.asarray(ill, float)], 1)
    np.testing.assert_allclose(np.exp(said(own)), expected, rtol=1e-4, atol=1e-5)


def pipeline(estimator: Any, encoder: Any = None) -> Any:
    parts = [
        ("levels", encoder or OneHotEncoder(), ["ward", "grade"]),
        ("numbers", StandardScaler(), ["age", "fever"]),
    ]
    return make_pipeline(ColumnTransformer(parts), estimator)


# --- scikit-learn


def test_a_pipeline_with_encoders_is_given_columns_and_levels_by_their_names(shelf: Path) -> None:
    model = pipeline(RandomForestRegressor(20, random_state=0)).fit(X, STAYS)
    dump(model, shelf / "stay.skops")
    own = spec("skops:stay.skops", shelf, "stay", **TREES)
    same_numbers(own, model.predict(FRAME))
    card = served(own).card
    assert card.shape == (1, 1, 4)
    assert [column.name for column in card.columns] == [*NAMES]
    assert card.columns[1].levels == ("intensive", "general", "burns")
    assert [(n.name, n.unit, n.high) for n in card.numbers] == [("stay", "days", 60.0)]
    assert (card.classes, card.class_names) == (1, None)
    assert card.signals == {LOGITS}
    assert not card.pull_back


def test_classes_of_a_pipeline_are_found_by_name_whatever_their_order(shelf: Path) -> None:
    model = pipeline(RandomForestClassifier(20, random_state=0)).fit(X, OUTCOMES)
    assert [*model.classes_] == ["ill", "well"], "the schema has the other order"
    dump(model, shelf / "outcome.skops")
    own = spec("skops:outcome.skops", shelf, "outcome", **TREES)
    same_classes(own, model.predict_proba(FRAME)[:, 0])
    assert served(own).card.class_names == ("well", "ill")


def test_numbers_that_were_read_as_texts_are_given_as_texts(shelf: Path) -> None:
    texts = X.assign(grade=X["grade"].astype(str))
    strict = OneHotEncoder(handle_unknown="ignore")  # a number would be ignored, and nobody told
    model = pipeline(Ridge(), strict).fit(texts, STAYS)
    dump(model, shelf / "texts.skops")
    frame = FRAME.assign(grade=FRAME["grade"].astype(str))
    same_numbers(spec("skops:texts.skops", shelf, "stay"), model.predict(frame))


def test_an_estimator_of_an_array_reads_numbers_and_indices_of_levels(shelf: Path) -> None:
    model = RandomForestRegressor(20, random_state=0).fit(CODED.to_numpy(), STAYS)
    dump(model, shelf / "array.skops")
    same_numbers(
        spec("skops:array.skops", shelf, "stay", **TREES), model.predict(FRAME_CODED.to_numpy())
    )


def test_an_encoder_of_an_array_of_texts_is_given_texts(shelf: Path) -> None:
    parts = [("levels", OrdinalEncoder(), [1]), ("rest", "passthrough", [0, 2, 3])]
    model = make_pipeline(ColumnTransformer(parts), RandomForestRegressor(9, random_state=0))
    model.fit(X.to_numpy(dtype=object), STAYS)
    dump(model, shelf / "objects.skops")
    same_numbers(
        spec("skops:objects.skops", shelf, "stay", **TREES),
        model.predict(FRAME.to_numpy(dtype=object)),
    )


def test_a_model_may_leave_columns_of_the_schema_out(shelf: Path) -> None:
    model = Ridge().fit(X[["fever", "age"]], STAYS)
    dump(model, shelf / "two.skops")
    same_numbers(spec("skops:two.skops", shelf, "stay"), model.predict(FRAME[["fever", "age"]]))


def test_without_pandas_one_line_says_so(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dump(pipeline(Ridge()).fit(X, STAYS), shelf / "stay.skops")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(SettingsError, match=r"takes pandas; install fedkd\[pandas\]"):
        served(spec("skops:stay.skops", shelf, "stay"))


# --- boosted trees in their own formats


@pytest.mark.parametrize("ending", ["json", "ubj"])
def test_xgboost_answers_numbers_and_classes(shelf: Path, ending: str) -> None:
    words = {"trusted": True} if ending == "ubj" else {}
    regressor = xgboost.XGBRegressor(n_estimators=20).fit(CODED, STAYS)
    regressor.save_model(shelf / f"stay.{ending}")
    same_numbers(
        spec(f"xgboost:stay.{ending}", shelf, "stay", **words), regressor.predict(FRAME_CODED)
    )
    classifier = xgboost.XGBClassifier(n_estimators=20).fit(CODED.to_numpy(), ILL)
    classifier.save_model(shelf / f"outcome.{ending}")
    own = spec(f"xgboost:outcome.{ending}", shelf, "outcome", **words)
    same_classes(own, classifier.predict_proba(FRAME_CODED.to_numpy())[:, 1])
    several = xgboost.XGBClassifier(n_estimators=20, objective="multi:softprob", num_class=2)
    several.fit(CODED, ILL).save_model(shelf / f"several.{ending}")
    own = spec(f"xgboost:several.{ending}", shelf, "outcome", **words)
    same_classes(own, several.predict_proba(FRAME_CODED)[:, 1])


def test_xgboost_stops_at_the_round_that_was_best(shelf: Path) -> None:
    model = xgboost.XGBRegressor(n_estimators=60, learning_rate=0.9, early_stopping_rounds=3)
    noisy = STAYS + np.random.default_rng(0).normal(0, 20, len(STAYS))
    model.fit(CODED[:200], noisy[:200], eval_set=[(CODED[200:], noisy[200:])], verbose=False)
    assert model.best_iteration < len(model.get_booster().get_dump()) - 1
    model.save_model(shelf / "best.json")
    same_numbers(spec("xgboost:best.json", shelf, "stay"), model.predict(FRAME_CODED))


def test_categories_of_xgboost_and_lightgbm_are_levels_by_their_names(shelf: Path) -> None:
    frame = FRAME.assign(ward=FRAME["ward"].astype(CATEGORIES["ward"].dtype))
    assert [*CATEGORIES["ward"].cat.categories] == ["burns", "general", "intensive"], "reversed"
    boosted = xgboost.XGBRegressor(n_estimators=20, enable_categorical=True)
    boosted.fit(CATEGORIES, STAYS).save_model(shelf / "categories.json")
    same_numbers(spec("xgboost:categories.json", shelf, "stay"), boosted.predict(frame))
    light = lightgbm.LGBMRegressor(n_estimators=20, verbose=-1).fit(CATEGORIES, STAYS)
    light.booster_.save_model(shelf / "categories.txt")
    same_numbers(spec("lightgbm:categories.txt", shelf, "stay"), light.predict(frame))


@pytest.mark.parametrize("array", [True, False])
def test_lightgbm_answers_numbers_and_classes(shelf: Path, array: bool) -> None:
    data, asked = (CODED.to_numpy(), FRAME_CODED.to_numpy()) if array else (CODED, FRAME_CODED)
    regressor = lightgbm.LGBMRegressor(n_estimators=20, verbose=-1).fit(data, STAYS)
    regressor.booster_.save_model(shelf / "stay.txt")
    with np.errstate(all="ignore"):
        same_numbers(spec("lightgbm:stay.txt", shelf, "stay"), regressor.booster_.predict(asked))
    classifier = lightgbm.LGBMClassifier(n_estimators=20, verbose=-1).fit(data, ILL)
    classifier.booster_.save_model(shelf / "outcome.txt")
    own = spec("lightgbm:outcome.txt", shelf, "outcome")
    same_classes(own, classifier.booster_.predict(asked))


def test_catboost_answers_numbers_and_classes(shelf: Path) -> None:
    quiet = {"iterations": 20, "verbose": 0, "allow_writing_files": False, "thread_count": 1}
    regressor = catboost.CatBoostRegressor(cat_features=["ward"], **quiet).fit(X, STAYS)
    regressor.save_model(shelf / "stay.cbm")
    own = spec("catboost:stay.cbm", shelf, "stay", trusted=True)
    same_numbers(own, regressor.predict(FRAME))
    classifier = catboost.CatBoostClassifier(**quiet).fit(CODED.to_numpy(), OUTCOMES)
    classifier.save_model(shelf / "outcome.cbm")
    own = spec("catboost:outcome.cbm", shelf, "outcome", trusted=True)
    same_classes(own, classifier.predict_proba(FRAME_CODED.to_numpy())[:, 0])
    with pytest.raises(SettingsError, match="trusted = true"):
        served(spec("catboost:stay.cbm", shelf, "stay"))


# --- ONNX


def test_onnx_of_one_float_input_answers_numbers_and_probabilities(shelf: Path) -> None:
    array, asked = (frame.to_numpy(np.float32) for frame in (CODED, FRAME_CODED))
    regressor = RandomForestRegressor(9, random_state=0).fit(array, STAYS)
    onnx.save(to_onnx(regressor, array[:1]), shelf / "stay.onnx")
    same_numbers(spec("onnx:stay.onnx", shelf, "stay"), regressor.predict(asked))
    classifier = RandomForestClassifier(9, random_state=0).fit(array, OUTCOMES)
    expected = classifier.predict_proba(asked)[:, 0]
    plain = to_onnx(classifier, array[:1], options={"zipmap": False})
    names = "classes = ['ill', 'well']"  # a tensor has no names: its order is the schema's
    (shelf / "ill.toml").write_text(COLUMNS + f"[predict]\nname = 'outcome'\n{names}\n")
    onnx.save(plain, shelf / "tensor.onnx")
    own = spec("onnx:tensor.onnx", shelf, "ill", outputs="probabilities")
    same_classes(own, 1 - expected)
    onnx.save(to_onnx(classifier, array[:1]), shelf / "maps.onnx")
    same_classes(spec("onnx:maps.onnx", shelf, "outcome"), expected)


def test_onnx_of_an_input_for_each_column_is_given_names_of_levels(shelf: Path) -> None:
    model = pipeline(Ridge()).fit(X.astype({"age": np.float32, "fever": np.float32}), STAYS)
    types = [
        ("age", FloatTensorType([None, 1])),
        ("ward", StringTensorType([None, 1])),
        ("grade", Int64TensorType([None, 1])),
        ("fever", FloatTensorType([None, 1])),
    ]
    onnx.save(to_onnx(model, initial_types=types), shelf / "columns.onnx")
    same_numbers(spec("onnx:columns.onnx", shelf, "stay"), model.predict(FRAME))


# --- networks


class Days(nn.Module):
    """An owner's own network: (B, 4) in their own units -> days."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).square().sqrt()


def days() -> nn.Module:
    torch.manual_seed(0)
    return Days()


def test_a_network_reads_rows_in_their_units_and_pulls_back_to_their_ranges(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "owners.models", sys.modules[__name__])
    network = days()
    save_file(network.state_dict(), shelf / "days.safetensors")
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(network, (torch.zeros(2, 4),), dynamic_shapes=({0: batch},))
    torch.export.save(program, shelf / "days.pt2")
    expected = network(torch.tensor(FRAME_CODED.to_numpy(np.float32))).detach()
    for own in (
        spec("factory:owners.models:days", shelf, "stay", weights="days.safetensors"),
        spec("pt2:days.pt2", shelf, "stay", trusted=True),
    ):
        same_numbers(own, expected)
        institution = served(own)
        assert institution.card.pull_back
        one = torch.full((1, 1, 1, 4), 0.5)
        reply = institution.answer(PullBack(one, {LOGITS: torch.ones(1, 1)}))
        assert isinstance(reply, Reply)
        assert reply.gradient is not None
        unit = torch.full((4,), 0.5, requires_grad=True)
        low, span = torch.tensor([18.0, 1, 2, 36.0]), torch.tensor([82.0, 0, 0, 6.0])
        (network((low + unit * span)[None]) / 60).sum().backward()
        torch.testing.assert_close(reply.gradient.flatten(), unit.grad)


def test_a_table_network_of_ours_opens_from_its_weights(shelf: Path) -> None:
    columns = parse_schema(shelf / "stay.toml").columns
    network = build_table_network("table-mlp", 1, columns, seed=1)
    save_file(network.state_dict(), shelf / "net.safetensors")
    own = spec("fedkd:table-mlp", shelf, "stay", weights="net.safetensors")
    with torch.no_grad():
        expected = network(ROWS.float() / 255).clamp(0, 1).numpy()
    np.testing.assert_allclose(said(own), expected, rtol=1e-4, atol=1e-6)


# --- what is refused, and what is warned of


def save_regressor(shelf: Path) -> None:
    dump(pipeline(Ridge()).fit(X, STAYS), shelf / "stay.skops")


def save_classifier(shelf: Path) -> None:
    dump(pipeline(LogisticRegression()).fit(X, OUTCOMES), shelf / "outcome.skops")
    xgboost.XGBClassifier(n_estimators=2).fit(CODED, ILL).save_model(shelf / "outcome.json")
    xgboost.XGBRegressor(n_estimators=2).fit(CODED, STAYS).save_model(shelf / "stay.json")


@pytest.mark.parametrize(
    ("source", "schema", "change", "says"),
    [
        ("skops:stay.skops", COLUMNS + OUTCOME, "", "no fitted classifier"),
        ("skops:outcome.skops", COLUMNS + STAY, "", "no fitted regressor"),
        ("xgboost:stay.json", COLUMNS + OUTCOME, "", "objective reg:squarederror"),
        ("skops:stay.skops", COLUMNS + STAY, '"fever"|"heat"', "column 'fever' that the schema"),
        ("skops:stay.skops", COLUMNS + STAY, '"burns"|"fire"', "unknown categories"),
        ("skops:outcome.skops", COLUMNS + OUTCOME, '"ill"|"sick"', "not among the 2"),
        ("xgboost:outcome.json", COLUMNS + OUTCOME, '"ill"|"ill", "odd"', "answers 1 outputs"),
        ("timm:resnet18", COLUMNS + STAY, "", "reads images and no rows"),
        ("fedkd:cnn", COLUMNS + STAY, "", "needs weights"),
        ("skops:none.skops", COLUMNS + STAY, "", r"none\.skops cannot be read"),
        ("skops:stay.skops", "columns = 3", "", r"no schema of a table: .*docs/tables\.md"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line_when_it_is_opened(
    shelf: Path, source: str, schema: str, change: str, says: str
) -> None:
    save_regressor(shelf)
    save_classifier(shelf)
    old, _, new = change.partition("|")
    (shelf / "own.toml").write_text(schema.replace(old, new) if old else schema)
    with pytest.raises((DataError, SettingsError), match=says) as caught:
        served(spec(source, shelf, "own"))
    assert "\n" not in str(caught.value)


def test_a_source_of_rows_needs_a_schema_and_takes_no_shape(shelf: Path) -> None:
    table = {"source": "xgboost:a.json", "shape": [1, 1, 4], "classes": 2}
    with pytest.raises(SettingsError, match="give a schema in place of shape"):
        served(spec_from_table(table, shelf))
    for words in ({"shape": [1, 1, 4]}, {"classes": 2}, {"class_names": ["a", "b"]}):
        with pytest.raises(SettingsError, match="stands in the schema already"):
            spec("xgboost:a.json", shelf, "stay", **words)
    with pytest.raises(SettingsError, match="mean and std are of images"):
        spec("skops:a.skops", shelf, "stay", mean=[0.0], std=[1.0])
    with pytest.raises(SettingsError, match=r"teacher\.shape is missing"):
        spec_from_table({"source": "onnx:a.onnx", "classes": 2}, shelf)


class Answers(nn.Module):
    """Answers the same to every row."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values))

    def forward(self, x: Tensor) -> Tensor:
        return self.values.expand(len(x), -1)


def saved(values: list[float], shelf: Path) -> None:
    save_file(Answers(values).state_dict(), shelf / "answers.safetensors")


def test_probabilities_and_logits_are_not_confused(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "owners.models", sys.modules[__name__])
    words = {"weights": "answers.safetensors", "options": {"values": [0.0, 0.0]}}
    own = "factory:owners.models:Answers"
    saved([0.2, 0.8], shelf)
    with pytest.raises(DataError, match='say outputs = "probabilities"'):
        served(spec(own, shelf, "outcome", **words))
    same_classes(spec(own, shelf, "outcome", outputs="probabilities", **words), np.full(200, 0.8))
    saved([0.2, 0.6], shelf)
    with pytest.raises(DataError, match=r"add up to 0\.8 to 0\.8, expected 1"):
        served(spec(own, shelf, "outcome", outputs="probabilities", **words))
    served(spec(own, shelf, "outcome", **words))
    with pytest.raises(SettingsError, match="outputs is of classes"):
        served(spec(own, shelf, "stay", outputs="probabilities", **words))
    saved([float("inf"), 0.0], shelf)
    with pytest.raises(DataError, match="not finite"):
        served(spec(own, shelf, "outcome", **words))


def test_numbers_outside_the_stated_range_are_clipped_and_a_warning_says_how_often(
    shelf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dump(Ridge().fit(X[["age"]], 70 * (X["age"] - 18) / 82), shelf / "far.skops")
    caplog.set_level(logging.WARNING)
    answers = said(spec("skops:far.skops", shelf, "stay"))
    assert answers.max() == 1.0
    (warning,) = (r for r in caplog.records if r.message == "numbers_clipped")
    facts = warning.facts  # type: ignore[attr-defined]
    assert facts["number"] == "stay"
    ages = (
        18
        + ExternalVault(spec("skops:far.skops", shelf, "stay"))
        ._layout.probe[  # type: ignore[union-attr]
            :, 0, 0, 0
        ]
        .double()
        / 255
        * 82
    )
    outside = int((ages.round() > 18 + 60 / 70 * 82).sum())
    assert 0 < facts["rows"] < facts["of"] == 512
    assert abs(facts["rows"] - outside) <= 2


def test_rows_outside_the_schema_do_not_reach_the_teacher(shelf: Path) -> None:
    save_regressor(shelf)
    institution = served(spec("skops:stay.skops", shelf, "stay"))
    reply = institution.answer(Ask(torch.rand(3, 1, 1, 4)))
    assert isinstance(reply, Reply)
    for wrong in (
        torch.rand(3, 1, 1, 5),
        torch.rand(3, 1, 4, 1),
        torch.rand(3, 4),
        torch.zeros(0, 1, 1, 4),
        torch.rand(3, 1, 1, 4) + 1,
        torch.full((3, 1, 1, 4), float("nan")),
        torch.full((3, 1, 1, 4), -0.001),
        torch.rand(3, 1, 1, 4).double(),
    ):
        refusal = institution.answer(Ask(wrong))
        assert isinstance(refusal, Refusal), wrong.shape
        assert refusal.reason is Reason.MALFORMED
    assert institution.totals["asked"] == 3


def test_scores_need_test_data(shelf: Path) -> None:
    save_regressor(shelf)
    with pytest.raises(SettingsError, match="there are no test data; name them under"):
        served(spec("skops:stay.skops", shelf, "stay"), Policy(scores=True))


def test_a_teacher_of_classes_scores_students_on_the_table_beside_it(shelf: Path) -> None:
    save_classifier(shelf)
    PATIENTS.to_csv(shelf / "own.csv", index=False)
    (shelf / "own.schema.toml").write_text(COLUMNS + OUTCOME)
    own, data = (
        spec("skops:outcome.skops", shelf, "outcome"),
        Assets(data="table:own.csv", root=str(shelf)),
    )
    institution = Institution("north", ExternalVault(own, data), Policy(scores=True))
    first = Answers([1.0, 0.0])
    of = len(PATIENTS) // 4
    found = institution.score(first, ["well", "ill"])
    turned = institution.score(first, ["ill", "well"])
    assert isinstance(found, tuple)
    assert isinstance(turned, tuple)
    assert found[1] == turned[1] == of
    assert found[0] + turned[0] == of
    assert abs(found[0] / of - float((OUTCOMES == "well").mean())) < 0.02, "it is stratified"
    PATIENTS.to_csv(shelf / "other.csv", index=False)
    (shelf / "other.schema.toml").write_text((COLUMNS + OUTCOME).replace("= 42", "= 43"))
    with pytest.raises(DataError, match="is not the one of the teacher"):
        _ = ExternalVault(own, Assets(data="table:other.csv", root=str(shelf))).teacher


def test_levels_are_read_as_pandas_reads_them() -> None:
    for levels, values in (
        (("1", "2"), [1, 2]),
        (("0.5", "2"), [0.5, 2.0]),
        (("a", "2"), ["a", "2"]),
        (("True", "False"), [True, False]),
        (("inf", "1"), ["inf", "1"]),
        (("1", "1.0"), ["1", "1.0"]),
    ):
        assert level_values(Column("x", levels=levels)) == values


def test_a_probe_has_every_level_of_every_column() -> None:
    levels = tuple(f"level {place}" for place in range(256))
    layout = TableLayout((Column("a", levels=levels), Column("b", levels=levels[:7])))
    found = decode_rows(layout.probe, layout.columns)
    assert [len(set(found[:, place].tolist())) for place in range(2)] == [256, 7]


PAGE = Path(__file__).parents[4] / "docs" / "teachers.md"


def test_the_page_has_a_table_for_each_format_of_rows() -> None:
    blocks = [block.partition("```")[0] for block in PAGE.read_text().split("```toml\n")[1:]]
    tables = [tomllib.loads(block)["teacher"] for block in blocks]
    with_schema = {table["source"].partition(":")[0] for table in tables if "schema" in table}
    assert {"skops", "xgboost", "lightgbm", "catboost", "onnx"} <= with_schema
