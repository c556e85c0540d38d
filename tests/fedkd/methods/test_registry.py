"""Methods by name: one table, old names of arguments, factories of others."""

import sys
from pathlib import Path

import pytest

import fedkd.methods
from fedkd.errors import SettingsError
from fedkd.methods import METHODS, Method, known_methods, make
from fedkd.methods.registry import RENAMED


def test_one_table_names_every_method() -> None:
    assert tuple(METHODS) == tuple(factory.__name__ for factory in fedkd.methods.PAPERS)
    assert len(METHODS) >= 20
    assert set(METHODS) <= set(fedkd.methods.__all__)
    assert set(METHODS) <= set(known_methods())
    files = {path.stem for path in Path(fedkd.methods.__file__).parent.glob("*.py")}
    assert set(METHODS) == files - {"__init__", "method", "registry", "source_shares"}
    for name in fedkd.methods.__all__:
        assert hasattr(fedkd.methods, name)


@pytest.mark.parametrize(
    ("method", "old", "new", "value"),
    [
        ("cudfkd", "imitation", "distillation_loss", "kl"),
        ("cudfkd", "pace_stop", "lambda_stop", 3.0),
        ("dense", "epoch", "steps_per_batch", 2),
        ("rdskd", "epoch", "capture_interval", 5),
        ("hidfd", "inflation", "public_repeats", 3),
        ("co_boosting", "hardness", "difficulty_power", 2.0),
    ],
)
def test_an_old_name_of_an_argument_is_read_with_a_warning(
    method: str, old: str, new: str, value: object
) -> None:
    with pytest.warns(FutureWarning, match=rf"method\.{old} is now method\.{new}"):
        made = make(method, {old: value})
    assert made.name == method
    with pytest.raises(SettingsError, match=f"{old} is the old name of {new}; give one"):
        make(method, {old: value, new: value})


def test_every_new_name_is_an_argument_of_some_method() -> None:
    import inspect

    known = {name for f in METHODS.values() for name in inspect.signature(f).parameters}
    assert {new for names in RENAMED.values() for new in names} <= known
    assert not known & RENAMED.keys()


def test_a_factory_of_somebody_else_is_a_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "from fedkd.methods import Method\ndef plain(*, share=1.0):\n"
    (tmp_path / "own_method.py").write_text(text + "    return Method('plain', 'nobody')\n")
    (tmp_path / "own_number.py").write_text("def plain():\n    return 3\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert isinstance(make("own_method:plain", {"share": 0.5}), Method)
    with pytest.raises(SettingsError, match=r"takes no argument shore \(did you mean share"):
        make("own_method:plain", {"shore": 0.5})
    with pytest.raises(SettingsError, match=r"own_number:plain made a int; expected a fedkd"):
        make("own_number:plain", {})
    with pytest.raises(SettingsError, match=r"unknown method 'cudfk'.*package\.module:factory"):
        make("cudfk", {})
