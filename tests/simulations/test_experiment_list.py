"""The list of experiments: complete, and each in a sentence."""

import pytest

from fedkd.experiment.loading import SHIPPED_FOLDER
from fedkd.simulations import experiment_list


def test_every_experiment_is_listed_in_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment_list.console, "width", 100)
    experiment_list.print_experiments()
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    listed = [line.split()[0] for line in lines[1:] if line.strip() and line[1] != " "]
    files = sorted(SHIPPED_FOLDER.glob("*.toml"))
    assert listed == [path.stem for path in files]
    for path in files:
        sentence = experiment_list.first_sentence(path)
        assert 10 < len(sentence) < 200, path.stem
        assert sentence[0].isupper() or sentence.startswith(path.stem[:4]), sentence
