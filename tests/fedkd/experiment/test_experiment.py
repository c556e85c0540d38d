"""An experiment's file: what may stand in it, and what is said of what may not."""

import re
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.errors import SettingsError
from fedkd.experiment import (
    ADAPTIVE,
    ALL,
    SHIPPED_FOLDER,
    Experiment,
    find_experiment,
    load_experiment,
    parse_experiment,
)
from fedkd.methods import make
from fedkd.models import MODELS, TABLE_MODELS
from fedkd.procedural import PRIORS
from fedkd.protocol import Signal

SHIPPED = sorted(path.stem for path in SHIPPED_FOLDER.glob("*.toml"))


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_can_be_run(name: str) -> None:
    experiment = load_experiment(name)
    method = make(experiment.method.name, experiment.method.arguments)
    assert method.name == experiment.method.name
    assert experiment.student.model in {**MODELS, **TABLE_MODELS}
    assert set(experiment.images.priors) <= set(PRIORS)
    assert set(experiment.policy.signals) <= set(Signal)
    assert set(method.needs.signals) <= set(experiment.policy.signals)
    assert experiment.policy.pull_back or not method.needs.pull_back
    assert experiment.name == name


def test_something_ships_that_pulls_back_and_something_that_does_not() -> None:
    gradients = {load_experiment(name).method.arguments.get("gradient", "none") for name in SHIPPED}
    assert {"none", "pull_back"} <= gradients


def test_a_file_says_only_what_differs_from_the_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "seed = 3\n[questions]\nbudget = 100\n")
    experiment = load_experiment(path)
    assert (experiment.name, experiment.seed, experiment.questions.budget) == ("mine", 3, 100)
    plain = Experiment(name="mine")
    assert experiment.student == plain.student
    assert experiment.questions.batch == plain.questions.batch
    assert load_experiment(path) == experiment


def test_a_resolved_experiment_reads_back_as_itself() -> None:
    experiment = load_experiment("digits", ["method.bn_weight=0.5", "images.priors=['pink']"])
    assert parse_experiment(experiment.model_dump()) == experiment
    assert Experiment.model_validate_json(experiment.model_dump_json()) == experiment


def test_all_but_the_name_of_a_method_goes_to_its_factory() -> None:
    arguments = {"gradient": "pull_back", "latent": 9, "warm_up": 0.5}
    experiment = parse_experiment({"name": "x", "method": {"name": "cudfkd", **arguments}})
    assert experiment.method.arguments == arguments
    spec = make("cudfkd", experiment.method.arguments).sources["generator"].spec
    assert spec.target.latent == 9  # type: ignore[attr-defined]


# --- overrides


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("questions.budget=77", "questions", "budget", 77),
        ("images.warp=0.25", "images", "warp", 0.25),
        ("policy.pull_back=true", "policy", "pull_back", True),
        ("images.priors=['pink', 'noise']", "images", "priors", ("pink", "noise")),
        ("student.model=mlp", "student", "model", "mlp"),
        ("student.model='mlp'", "student", "model", "mlp"),
        ("institutions.data=torchvision:MNIST", "institutions", "data", "torchvision:MNIST"),
        ("institutions.root=/a=b/c", "institutions", "root", "/a=b/c"),
        ("method.imitation=l1_centred", "method", "imitation", "l1_centred"),
    ],
)
def test_an_override_stands_in_the_place_of_the_files_value(
    override: str, section: str, key: str, value: object
) -> None:
    experiment = load_experiment("digits", [override])
    assert getattr(getattr(experiment, section), key) == value
    assert experiment != load_experiment("digits")


def test_the_last_override_counts_and_the_top_level_has_keys_too() -> None:
    experiment = load_experiment("digits", ["seed=1", "seed=2", "name=other"])
    assert (experiment.seed, experiment.name) == (2, "other")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("questions.budget", "expected section.key=value"),
        ("=3", "expected section.key=value"),
        ("seed.x=3", "seed is not a section"),
        ("questions.budgte=3", r"unknown key questions.budgte \(did you mean budget\?\)"),
        ("questions.budget=many", "questions.budget = 'many'"),
    ],
)
def test_an_override_that_cannot_be_is_refused(override: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        load_experiment("digits-pullback", ["seed=1", override])
    assert "\n" not in str(caught.value)


# --- renamed keys


def test_an_old_key_is_read_with_a_warning_that_names_the_new_one() -> None:
    with pytest.warns(FutureWarning, match="the key collected is now called public"):
        experiment = parse_experiment({"name": "x", "images": {"collected": "here"}})
    assert experiment == parse_experiment({"name": "x", "images": {"public": "here"}})
    with pytest.warns(FutureWarning):
        assert Experiment.model_validate_json('{"name":"x","images":{"collected":null}}')
    with pytest.raises(SettingsError, match="collected is the old name of public"):
        parse_experiment({"name": "x", "images": {"collected": "here", "public": "there"}})


# --- unknown keys


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"questoins": {}},
            "unknown key questoins (did you mean questions?); known here: examiner, expect",
        ),
        ({"student": {"modle": "cnn"}}, "unknown key student.modle (did you mean model?)"),
        ({"policy": {"pullback": True}}, "policy.pullback (did you mean pull_back?)"),
        ({"images": {"zzz": 1}}, "unknown key images.zzz; known here: mix"),
    ],
)
def test_an_unknown_key_is_told_the_nearest_known_one(values: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(words)) as caught:
        parse_experiment({"name": "x", **values})
    assert "\n" not in str(caught.value)


def keys() -> list[tuple[str, str]]:
    sections = Experiment(name="x").model_dump()
    return [(s, k) for s, own in sections.items() if isinstance(own, dict) for k in own]


@given(st.sampled_from([(s, k) for s, k in keys() if s != "method"]), st.integers(0, 20))
def test_a_letter_that_was_lost_is_found_in_every_key(place: tuple[str, str], index: int) -> None:
    section, key = place
    misspelt = key[: index % len(key)] + key[index % len(key) + 1 :]
    if misspelt and (section, misspelt) not in keys() and len(key) > 3:
        with pytest.raises(SettingsError, match=f"{section}.{misspelt} .did you mean"):
            parse_experiment({"name": "x", section: {misspelt: 1}})


# --- ranges


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("institutions", "count", 0),
        ("institutions", "alpha", 0.0),
        ("institutions", "alpha", float("nan")),
        ("institutions", "partition", "random"),
        ("institutions", "batch", 1),
        ("policy", "samples", 0),
        ("policy", "largest_batch", 0),
        ("images", "warp", 1.1),
        ("images", "mix", -0.1),
        ("institutions", "shift", -1),
        ("student", "steps", -1),
        ("student", "shift", -1),
        ("student", "learning_rate", 0.0),
        ("student", "learning_rate", float("inf")),
        ("student", "weight_decay", float("nan")),
        ("questions", "budget", 0),
        ("questions", "budget", 2.5),
        ("questions", "asking", 1.5),
        ("questions", "asking", float("nan")),
        ("questions", "quorum", 0),
        ("questions", "timeout", 0.0),
        ("questions", "timeout", float("inf")),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(section: str, key: str, value: object) -> None:
    with pytest.raises(SettingsError, match=re.escape(f"{section}.{key} = {value!r}: ")) as caught:
        parse_experiment({"name": "x", section: {key: value}})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"), [("3", 3.0), ("0", 0.0), ("all", ALL), ('"adaptive"', ADAPTIVE)]
)
def test_linger_is_seconds_or_a_word(text: str, value: float | str) -> None:
    assert load_experiment("digits", [f"questions.linger={text}"]).questions.linger == value
    assert load_experiment("digits").questions.linger == ADAPTIVE
    for wrong in ("some", "-1", "true", "nan"):
        with pytest.raises(
            SettingsError, match=r'expected seconds, 0 or more, "adaptive" or "all"'
        ):
            load_experiment("digits", [f"questions.linger={wrong}"])


def test_a_run_of_an_earlier_release_lingers_as_it_did() -> None:
    stored = '{"name": "x", "questions": {"linger": null}}'
    assert Experiment.model_validate_json(stored).questions.linger == ALL


def test_another_method_leaves_out_the_arguments_of_the_file_s_and_says_so() -> None:
    before = load_experiment("digits-cmi").method
    assert before.arguments
    with pytest.warns(UserWarning, match="left out what the file sets for cmi") as said:
        found = load_experiment("digits-cmi", ["method.pace=2", "method.name=zskt"]).method
    assert (found.name, found.arguments) == ("zskt", {"pace": 2})
    assert all(name in str(said[0].message) for name in before.arguments)


@pytest.mark.parametrize("override", ["method.name=cmi", "method={name='zskt'}", "seed=3"])
def test_arguments_stay_where_the_method_does(override: str) -> None:
    before = load_experiment("digits-cmi").method.arguments
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after = load_experiment("digits-cmi", [override]).method
    assert after.arguments == ({} if "zskt" in override else before)


def test_a_section_that_is_no_table_is_refused() -> None:
    with pytest.raises(SettingsError, match="questions = 5: "):
        parse_experiment({"name": "x", "questions": 5})


# --- files


def test_an_experiment_is_found_by_name_or_by_path(tmp_path: Path) -> None:
    assert find_experiment("digits") == SHIPPED_FOLDER / "digits.toml"
    path = write(tmp_path, "")
    assert find_experiment(path) == Path(path)
    assert load_experiment(path).name == "mine"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digts", r"no experiment called 'digts' \(did you mean digits\?\)"),
        ("nowhere.toml", "no experiment at nowhere.toml; give a .toml file, or a name"),
    ],
)
def test_an_experiment_that_is_not_there_is_refused(name: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        find_experiment(name)


@pytest.mark.parametrize("text", ["[questions", "a = ", "\xff", "name = 1\nname = 2"])
def test_a_file_that_is_no_toml_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(SettingsError, match=r"cannot read mine\.toml: .*; correct the file") as no:
        load_experiment(str(path))
    assert "\n" not in str(no.value)


def test_every_shipped_file_says_what_it_is_for() -> None:
    for name in SHIPPED:
        text = (SHIPPED_FOLDER / f"{name}.toml").read_text()
        assert text.startswith("# ")
        assert tomllib.loads(text)
