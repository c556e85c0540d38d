"""Mistakes of an experiment are told before its folder is made and before a teacher is trained."""

import sys
from pathlib import Path

import pytest

from fedkd.errors import FedkdError
from fedkd.experiment import load_experiment
from fedkd.simulations.run import run

MISTAKES = [
    ("digits", ["method.name=cudfdk"], "did you mean cudfkd"),
    ("digits", ["method.temprature=3"], "takes no argument temprature"),
    ("digits", ["method.distillation_loss=kld"], "kld"),
    ("digits", ['images.priors=["pnik"]'], "did you mean pink"),
    ("digits", ["student.model=cnm"], "did you mean cnn"),
    ("digits", ["student.device=cuda:9"], "is not to be had here"),
    ("digits", ["student.loss=huber"], "is for numbers"),
    ("digits", ['institutions.models=["cnn","resnt9"]'], "did you mean resnet9"),
    ("digits", ['institutions.models=["cnn","sklearn:SVM"]'], "unknown model 'sklearn:SVM'"),
    ("digits", ['institutions.models=["table-mlp"]'], "unknown model 'table-mlp'"),
    ("digits", ["institutions.data=digitz"], "unknown data 'digitz'"),
    ("digits", ["institutions.data=npz:none.npz"], "no readable .npz"),
    ("digits", ["institutions.data=folder:none"], "no images in none"),
    ("digits", ["institutions.data=table:none.csv"], "unknown 'table:none.csv'"),
    ("digits", ["institutions.partition=file"], "give a file exactly where"),
    (
        "digits",
        ["institutions.partition=file", "institutions.partition_file=no.npz"],
        "no.npz is no readable",
    ),
    ("digits", ["institutions.partition=column"], "name a column exactly where"),
    ("digits", ["institutions.count=2000"], "images"),
    ("digits", ['institutions.labels=[["0","x"]]'], "'x'"),
    ("digits", ['institutions.labels=[["0","1"]]'], "class"),
    (
        "digits",
        [
            'institutions.labels=[["0"],["1","2","3","4","5","6","7","8","9"]]',
            'institutions.models=["sklearn:LogisticRegression"]',
        ],
        "needs 2 or more classes",
    ),
    ("digits", ['policy.signals=["logit"]'], "policy.signals names 'logit'"),
    (
        "digits",
        ["method.gradient=pull_back", 'policy.signals=["logits","bn_gap"]'],
        "needs gradients",
    ),
    (
        "digits",
        ["method.name=deepinversion", 'institutions.models=["mlp"]'],
        "bn_gap",
    ),
    ("digits", ["questions.rule=mean_logit"], "unknown rule 'mean_logit'"),
    ("digits", ["questions.rule=counted_logits", "policy.class_counts=false"], "class_counts"),
    ("digits", ["questions.quorum=6"], "questions.quorum 6 of 5 institutions"),
    ("digits", ["questions.address=here"], "expected host:port"),
    ("digits", ["privacy.epsilon=3"], "set class_counts and scores to false"),
    (
        "digits",
        ["privacy.epsilon=3", "policy.class_counts=false", "policy.scores=false"],
        "cnn has batch norm",
    ),
    ("digits", ["privacy.mode=pate"], "give an epsilon"),
    ("digits-hidfd", ["images.public=nowhere"], "no collected images at nowhere"),
    ("digits", ["examiner=cartpol"], "examiner"),
    ("digits", ["examiner=cartpole"], "expected rows of a table"),
    ("diabetes", ["student.model=cnn"], "reads images, and these are rows"),
    ("diabetes", ["method.name=cmi"], "is for classes"),
    ("diabetes", ["student.mirrors=true"], "leave student.shift and student.mirrors out"),
    ("diabetes", ["institutions.shift=2"], "leave institutions.shift and institutions.mirrors out"),
    ("wine", ["method.name=dfkd_regression"], "is for numbers"),
    ("digits", ["images.public=typeset-digits"], "has no use for public samples"),
    ("diabetes", ['rows.priors=["gausian"]'], "did you mean gaussian"),
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore:method.name:UserWarning")
@pytest.mark.parametrize(
    ("engine", "name", "overrides", "message"),
    [("local", *each) for each in MISTAKES] + [("simulation", *each) for each in MISTAKES[::6]],
)
def test_nothing_is_made_and_nothing_is_trained(
    tmp_path: Path, engine: str, name: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(FedkdError, match=message):
        run(load_experiment(name, overrides), engine, tmp_path / "run", checkpoint=60)
    assert list(tmp_path.iterdir()) == []
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()
