"""External teachers: each format answers as the model does, through a real institution's gate."""

import io
import json
import logging
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import LinearSVC
from skops.io import dump
from torch import Tensor, nn

from fedkd.client.institution import Institution
from fedkd.client.vault.external_vault import ExternalVault
from fedkd.client.vault.teachers.formats import FORMATS, open_teacher
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec, spec_from_table
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.client.vault.vault_settings import Assets
from fedkd.data.datasets import open_data
from fedkd.errors import DataError, NeedsError, SettingsError
from fedkd.models import ModuleTeacher, build_network
from fedkd.privacy import Policy
from fedkd.protocol import Ask, PullBack, Reason, Refusal, Reply, Signal

LOGITS, BN_GAP, FEATURES = Signal.LOGITS, Signal.BN_GAP, Signal.FEATURES
EVERYTHING = Policy(frozenset(Signal), pull_back=True)
SMALL, COLOUR = (1, 8, 8), (3, 32, 32)
DIGITS = open_data("digits")
pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning:torch"
)  # of torch's exporters
PAGE = Path(__file__).parents[4] / "docs" / "teachers.md"


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(shape: tuple[int, int, int] = SMALL, count: int = 5) -> Tensor:
    return torch.randint(0, 256, (count, *shape), generator=rng(), dtype=torch.uint8)


def lived(network: nn.Module, shape: tuple[int, int, int] = SMALL) -> nn.Module:
    """With batch norms that remember something, in evaluation mode."""
    network.train()
    with torch.no_grad():
        network(torch.rand(8, *shape, generator=rng()))
    return network.eval()


def served(spec: TeacherSpec) -> Institution:
    return Institution("north", ExternalVault(spec), EVERYTHING)


def said(institution: Institution, asked: Tensor) -> Tensor:
    reply = institution.answer(Ask(asked, frozenset({LOGITS}), exact=True))
    assert isinstance(reply, Reply)
    return reply.signals[LOGITS]


def truth(model: Callable[[Tensor], Tensor], asked: Tensor) -> Tensor:
    with torch.no_grad():
        return model(asked.float() / 255)


def same(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def little() -> nn.Module:
    """A network of the owner's own, which this module's factory makes."""
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10))


def fitted() -> LogisticRegression:
    flat = DIGITS.train_images.flatten(1)[:300].numpy() / 255.0
    return LogisticRegression(max_iter=300).fit(flat, DIGITS.train_labels[:300].numpy())


def ending_in_softmax() -> nn.Module:
    return nn.Sequential(*little(), nn.Softmax(dim=1))


def failing() -> nn.Module:
    raise RuntimeError("no such thing\nsecond line")


def nothing() -> str:
    return "no model"


@pytest.fixture(autouse=True)
def own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """This module is what an owner's package would be."""
    monkeypatch.setitem(sys.modules, "owners.models", sys.modules[__name__])


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what institutions have, each made from the network that `cnn` gives."""
    folder = tmp_path_factory.mktemp("shelf")
    network = cnn()
    save_file(network.state_dict(), folder / "cnn.safetensors")
    export(network, folder / "cnn.pt2")
    torch.onnx.export(
        network,
        (torch.zeros(2, *SMALL),),
        folder / "cnn.onnx",
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    dump(fitted(), folder / "logistic.skops")
    return folder


def export(network: nn.Module, path: Path) -> None:
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(network, (torch.zeros(2, *SMALL),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)


def cnn() -> nn.Module:
    return lived(build_network("cnn", 10, SMALL, 0))


def spec(source: str, shelf: Path, **words: Any) -> TeacherSpec:
    return TeacherSpec(source, SMALL, **{"classes": 10, "folder": shelf, **words})


def test_a_network_of_ours_says_all_signals_and_pulls_back(shelf: Path) -> None:
    institution, network = served(spec("fedkd:cnn", shelf, weights=Path("cnn.safetensors"))), cnn()
    assert institution.card.signals == frozenset(Signal)
    same(said(institution, images()), truth(network, images()))
    x = (images().float() / 255).requires_grad_()
    (expected,) = torch.autograd.grad(network(x).sum(), x)
    reply = institution.answer(PullBack(images(), {LOGITS: torch.ones(5, 10)}))
    assert isinstance(reply, Reply)
    assert reply.gradient is not None
    same(reply.gradient, expected)


def test_a_factory_makes_a_network_that_is_scaled_as_its_owner_says(tmp_path: Path) -> None:
    network = lived(little())
    save_file(network.state_dict(), tmp_path / "own.safetensors")
    words = {"weights": Path("own.safetensors"), "mean": (0.3,), "std": (0.2,)}
    institution = served(spec("factory:owners.models:little", tmp_path, **words))
    assert institution.card.signals == {LOGITS, BN_GAP}
    assert institution.card.pull_back
    same(said(institution, images()), truth(lambda x: network((x - 0.3) / 0.2), images()))


def test_opening_leaves_the_global_generator_as_it_was(tmp_path: Path) -> None:
    save_file(little().state_dict(), tmp_path / "own.safetensors")
    before = torch.random.get_rng_state()
    own = spec("factory:owners.models:little", tmp_path, weights=Path("own.safetensors"))
    teacher = open_teacher(own)
    assert torch.equal(before, torch.random.get_rng_state())
    assert isinstance(teacher, ModuleTeacher)
    assert not any(p.requires_grad for p in teacher.module.parameters())
    assert not teacher.module.training


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_library_s_network_answers_as_it_does_outside(tmp_path: Path, library: str) -> None:
    makers: dict[str, Callable[..., nn.Module]] = {
        "torchvision": torchvision.models.resnet18,
        "timm": lambda num_classes: timm.create_model("resnet18", num_classes=num_classes),
    }
    network = lived(makers[library](num_classes=7), COLOUR)
    save_file(network.state_dict(), tmp_path / "resnet.safetensors")
    own = TeacherSpec(
        f"{library}:resnet18", COLOUR, tmp_path / "resnet.safetensors", class_names=tuple("abcdefg")
    )
    institution = served(own)
    assert institution.card.classes == 7
    assert institution.card.signals == {LOGITS, BN_GAP}
    same(said(institution, images(COLOUR)), truth(network, images(COLOUR)))
    with pytest.raises(DataError, match="does not fit the network: 2 of another shape"):
        open_teacher(replace(own, class_names=None, classes=10))


def test_timm_s_own_weights_come_from_its_cache_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    own = TeacherSpec("timm:resnet18.a1_in1k", COLOUR, classes=1000)
    with pytest.raises(DataError, match="nothing is downloaded"):
        open_teacher(own)
    network = lived(timm.create_model("resnet18"), COLOUR)
    kept = tmp_path / "models--timm--resnet18.a1_in1k"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0" * 40)
    (kept / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(network.state_dict(), kept / "snapshots" / ("0" * 40) / "model.safetensors")
    same(said(served(own), images(COLOUR)), truth(network, images(COLOUR)))


def test_onnx_answers_and_is_known_to_have_no_gradient(shelf: Path) -> None:
    institution = served(spec("onnx:cnn.onnx", shelf))
    assert institution.card.signals == {LOGITS}
    assert not institution.card.pull_back
    same(said(institution, images()), truth(cnn(), images()))
    with pytest.raises(NeedsError):
        open_teacher(spec("onnx:cnn.onnx", shelf)).pull_back(images(), {})


def test_onnx_of_one_fixed_batch_answers_any_number(shelf: Path, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(shelf / "cnn.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(model, tmp_path / "three.onnx")
    institution = served(spec("onnx:three.onnx", tmp_path))
    same(said(institution, images(count=7)), truth(cnn(), images(count=7)))


def test_an_archive_of_torch_s_answers_and_pulls_back(shelf: Path) -> None:
    institution, network = served(spec("pt2:cnn.pt2", shelf, trusted=True)), cnn()
    assert institution.card.signals == {LOGITS}
    same(said(institution, images()), truth(network, images()))
    x = (images().float() / 255).requires_grad_()
    (expected,) = torch.autograd.grad(network(x).sum(), x)
    reply = institution.answer(PullBack(images(), {LOGITS: torch.ones(5, 10)}))
    assert isinstance(reply, Reply)
    assert reply.gradient is not None
    same(reply.gradient, expected)


def test_an_archive_is_opened_on_the_owner_s_word_alone(shelf: Path) -> None:
    with pytest.raises(SettingsError, match="trusted = true"):
        open_teacher(spec("pt2:cnn.pt2", shelf))


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def altered(source: Path, target: Path, change: Callable[[str, bytes], bytes]) -> None:
    with zipfile.ZipFile(source) as read, zipfile.ZipFile(target, "w") as written:
        for name in read.namelist():
            written.writestr(name, change(name, read.read(name)))


def test_pickles_in_an_archive_are_never_unpickled(shelf: Path, tmp_path: Path) -> None:
    mark, pickled = tmp_path / "exploded", io.BytesIO()
    torch.save(Bomb(mark), pickled)

    def examples(name: str, content: bytes) -> bytes:
        return pickled.getvalue() if name.endswith("sample_inputs/model.pt") else content

    altered(shelf / "cnn.pt2", tmp_path / "examples.pt2", examples)
    same(
        said(served(spec("pt2:examples.pt2", tmp_path, trusted=True)), images()),
        truth(cnn(), images()),
    )

    def weight(name: str, content: bytes) -> bytes:
        if name.endswith("model_weights_config.json"):
            config = json.loads(content)
            config["config"]["head.bias"]["use_pickle"] = True
            return json.dumps(config).encode()
        return pickled.getvalue() if name.endswith("weight_10") else content

    altered(shelf / "cnn.pt2", tmp_path / "weight.pt2", weight)
    with pytest.raises(DataError, match=r"model_weights_config\.json, which could only be read"):
        open_teacher(spec("pt2:weight.pt2", tmp_path, trusted=True))
    for extra in ("data/constants/custom_obj_0", "data/weights/model.pt", "data/aotinductor/a.so"):
        altered(shelf / "cnn.pt2", tmp_path / "extra.pt2", lambda _, content: content)
        with zipfile.ZipFile(tmp_path / "extra.pt2", "a") as archive:
            archive.writestr(f"archive/{extra}", pickled.getvalue())
        with pytest.raises(DataError, match="running code"):
            open_teacher(spec("pt2:extra.pt2", tmp_path, trusted=True))
    assert not mark.exists()
    torch.load(io.BytesIO(pickled.getvalue()), weights_only=False)
    assert mark.exists(), "the bomb was none"


def test_a_network_left_in_training_mode_is_refused(tmp_path: Path) -> None:
    export(cnn().train(), tmp_path / "training.pt2")
    with pytest.raises(DataError, match="evaluation mode"):
        open_teacher(spec("pt2:training.pt2", tmp_path, trusted=True))


@pytest.mark.parametrize("kind", ["factory", "onnx", "pt2"])
def test_probabilities_in_the_place_of_logits_are_refused_with_the_way_out(
    tmp_path: Path, kind: str
) -> None:
    network = lived(ending_in_softmax())
    logits = nn.Sequential(*list(network)[:-1]).eval()
    save_file(network.state_dict(), tmp_path / "own.safetensors")
    export(network, tmp_path / "own.pt2")
    torch.onnx.export(
        network, (torch.zeros(1, *SMALL),), tmp_path / "own.onnx", dynamo=False, verbose=False
    )
    own = {
        "factory": spec(
            "factory:owners.models:ending_in_softmax", tmp_path, weights=Path("own.safetensors")
        ),
        "onnx": spec("onnx:own.onnx", tmp_path),
        "pt2": spec("pt2:own.pt2", tmp_path, trusted=True),
    }[kind]
    with pytest.raises(DataError, match='answers probabilities; say outputs = "probabilities"'):
        open_teacher(own)
    declared = said(served(replace(own, outputs="probabilities")), images())
    same(declared, truth(logits, images()).log_softmax(1))


def test_logits_that_are_called_probabilities_are_refused(tmp_path: Path) -> None:
    network = lived(little())
    save_file(network.state_dict(), tmp_path / "own.safetensors")
    own = spec("factory:owners.models:little", tmp_path, weights=Path("own.safetensors"))
    open_teacher(own)
    with pytest.raises(DataError, match='no probabilities of 10 classes; say outputs = "logits"'):
        open_teacher(replace(own, outputs="probabilities"))


@pytest.mark.parametrize("source", ["factory:owners.models:fitted", "skops:logistic.skops"])
def test_an_estimator_says_the_logarithm_of_its_probabilities(shelf: Path, source: str) -> None:
    institution = served(spec(source, shelf))
    assert institution.card.signals == {LOGITS}
    flat = images().flatten(1).numpy() / np.float32(255)
    expected = np.log(np.maximum(fitted().predict_proba(flat), 1e-7))
    same(said(institution, images()), torch.tensor(expected, dtype=torch.float32))


def test_an_estimator_s_classes_are_found_by_their_names(tmp_path: Path) -> None:
    flat, labels = DIGITS.train_images.flatten(1)[:200].numpy() / 16.0, DIGITS.train_labels[:200]
    words = np.array(["zero", "one", "two"])
    known = labels < 3
    estimator = LogisticRegression(max_iter=300).fit(flat[known], words[labels[known]])
    dump(estimator, tmp_path / "words.skops")
    names = ("one", "three", "two", "zero")
    own = TeacherSpec(
        "skops:words.skops",
        SMALL,
        class_names=names,
        mean=(0.0,),
        std=(16 / 255,),
        folder=tmp_path,
    )
    logits = said(served(own), images())
    expected = estimator.predict_proba(images().flatten(1).numpy() / 16.0)
    same(logits[:, [0, 2, 3]].exp(), torch.tensor(expected[:, [0, 1, 2]]).float())
    same(logits[:, 1].exp(), torch.full((5,), 1e-7))
    with pytest.raises(DataError, match="class_names"):
        open_teacher(replace(own, class_names=None, classes=4))


def twice(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return 2 * x


def test_skops_builds_only_what_the_owner_trusts(tmp_path: Path) -> None:
    pipeline = make_pipeline(FunctionTransformer(twice), LogisticRegression(max_iter=300))
    flat = DIGITS.train_images.flatten(1)[:200].numpy() / 255.0
    twice.__module__ = "owners.models"
    dump(pipeline.fit(flat, DIGITS.train_labels[:200].numpy()), tmp_path / "own.skops")
    with pytest.raises(SettingsError, match=r"owners\.models\.twice"):
        open_teacher(spec("skops:own.skops", tmp_path))
    open_teacher(spec("skops:own.skops", tmp_path, trusted_types=("owners.models.twice",)))
    dump(LinearSVC().fit(flat, DIGITS.train_labels[:200].numpy()), tmp_path / "svc.skops")
    with pytest.raises(DataError, match="CalibratedClassifierCV"):
        open_teacher(spec("skops:svc.skops", tmp_path))


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ({"source": "pickle:model.pkl"}, SettingsError, "it begins with one of factory:"),
        ({"weights": None}, SettingsError, "needs weights"),
        ({"weights": Path("none.safetensors")}, DataError, r"none\.safetensors cannot be read"),
        ({"weights": Path("cnn.onnx")}, DataError, r"cnn\.onnx cannot be read as safetensors"),
        ({"source": "fedkd:lenet"}, SettingsError, "did you mean lenet5"),
        ({"source": "fedkd:mlp"}, DataError, r"cnn\.safetensors does not fit the network"),
        ({"classes": 7}, DataError, "2 of another shape .head.weight"),
        ({"shape": (3, 8, 8)}, DataError, r"1 of another shape \(body"),
        ({"options": {"width": 3}}, SettingsError, "fedkd: takes no options"),
        ({"source": "factory:owners.none:f"}, SettingsError, "PYTHONPATH"),
        ({"source": "factory:owners.models"}, SettingsError, "package.module:function"),
        ({"source": "factory:owners.models:failing"}, DataError, "RuntimeError: no such thing;"),
        ({"source": "factory:owners.models:nothing"}, DataError, "returned str"),
        ({"source": "factory:owners.models:fitted"}, SettingsError, "take weights away"),
        ({"source": "torchvision:resnet81"}, SettingsError, "see resnet18"),
        ({"source": "torchvision:resnet18", "weights": None}, DataError, "are pickles"),
        ({"source": "timm:resnet81"}, SettingsError, "timm has no network"),
        ({"source": "onnx:cnn.onnx"}, SettingsError, "onnx: takes no weights"),
        ({"source": "onnx:cnn.pt2", "weights": None}, DataError, "is a zip archive and no ONNX"),
        (
            {"source": "onnx:cnn.onnx", "weights": None, "shape": (1, 9, 9)},
            DataError,
            "give the shape that it was trained on",
        ),
        (
            {"source": "onnx:cnn.onnx", "weights": None, "classes": 7},
            DataError,
            r"answers \[1, 10\] to 1 images, expected \[1, 7\]",
        ),
        (
            {"source": "onnx:cnn.onnx", "weights": None, "output_name": "other"},
            SettingsError,
            "offers logits; give output_name",
        ),
        (
            {"source": "onnx:cnn.onnx", "weights": None, "outputs": "probabilities"},
            DataError,
            "no probabilities",
        ),
        ({"source": "skops:cnn.pt2", "weights": None}, DataError, "cannot be read by skops"),
        ({"source": "skops:cnn.onnx", "weights": None}, DataError, "is no skops file"),
        (
            {"source": "pt2:cnn.onnx", "weights": None, "trusted": True},
            DataError,
            "no readable archive",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line_when_it_is_opened(
    shelf: Path, words: dict[str, Any], error: type[Exception], message: str
) -> None:
    own = spec("fedkd:cnn", shelf, weights=Path("cnn.safetensors"))
    with pytest.raises(error, match=message) as caught:
        open_teacher(replace(own, **words))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        {"source": "cnn"},
        {"shape": (0, 8, 8)},
        {"classes": 0},
        {"class_names": ("a", "b")},
        {"class_names": ("a",) * 10},
        {"mean": (0.5,)},
        {"mean": (0.5, 0.5), "std": (0.5, 0.5)},
        {"mean": (0.5,), "std": (0.0,)},
        {"mean": (float("nan"),), "std": (1.0,)},
        {"batch": 0},
        {"timeout": 0.0},
    ],
)
def test_words_that_cannot_be_meant_are_refused(words: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        TeacherSpec(**{"source": "onnx:a.onnx", "shape": SMALL, "classes": 10, **words})


def test_a_table_says_where_it_is_wrong(tmp_path: Path) -> None:
    table = {"source": "onnx:a.onnx", "shape": [1, 8, 8], "classes": 10}
    assert spec_from_table(table, tmp_path).path("a.onnx") == tmp_path / "a.onnx"
    for key, value, message in (
        ("weigths", "a", "did you mean weights"),
        ("folder", "/", "unknown key 'folder'"),
        ("shape", [1, 8], r"teacher\.shape"),
        ("outputs", "labels", r"teacher\.outputs"),
    ):
        with pytest.raises(SettingsError, match=message):
            spec_from_table({**table, key: value}, tmp_path)


def test_promises_without_counts_or_test_data_stop_the_institution(shelf: Path) -> None:
    own = spec("fedkd:cnn", shelf, weights=Path("cnn.safetensors"))
    with pytest.raises(SettingsError, match="class_counts"):
        Institution("north", ExternalVault(own), Policy(class_counts=True))
    with pytest.raises(SettingsError, match=r"policy\.scores"):
        Institution("north", ExternalVault(own), Policy(scores=True))
    assert served(own).card.class_counts is None


def test_a_external_teacher_scores_students_on_data_that_fit_it(shelf: Path) -> None:
    own = spec("fedkd:cnn", shelf, weights=Path("cnn.safetensors"))
    vault = ExternalVault(own, Assets(count=5))
    right = int((truth(cnn(), DIGITS.test_images[::5]).argmax(1) == DIGITS.test_labels[::5]).sum())
    assert Institution("north", vault, Policy(scores=True)).score(cnn()) == (right, 72)
    assert ExternalVault(own).score(cnn()) == (0, 0)
    with pytest.raises(DataError, match="name data that fit it"):
        _ = ExternalVault(replace(own, shape=(1, 9, 9)), Assets()).teacher


def test_names_are_the_owner_s_and_trained_teachers_have_none(shelf: Path) -> None:
    names = tuple("abcdefghij")
    assert ExternalVault(spec("fedkd:cnn", shelf, class_names=names)).class_names == names
    assert TrainedVault(Assets()).class_names is None


def test_what_a_teacher_fails_with_stays_inside(
    shelf: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    vault = ExternalVault(spec("onnx:cnn.onnx", shelf))
    institution = Institution("north", vault, EVERYTHING)
    vault.teacher._score_batch = lambda _: np.full((5, 10), np.nan)  # type: ignore[attr-defined]
    answer = institution.answer(Ask(images()))
    assert answer == Refusal(Reason.FAILED, "the teacher could not answer")
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def tables() -> list[dict[str, Any]]:
    """Every [teacher] table of the page that brings one; others are trained in the vault."""
    found = []
    for block in PAGE.read_text().split("```toml\n")[1:]:
        found.append(tomllib.loads(block.partition("```")[0])["teacher"])
    return [table for table in found if "source" in table]


def test_every_table_of_the_page_is_one_and_every_format_has_one() -> None:
    specs = [spec_from_table(table, Path()) for table in tables()]
    assert {s.source.partition(":")[0] for s in specs} == set(FORMATS)
    for own in specs:
        prefix = own.source.partition(":")[0]
        given = set(tables()[specs.index(own)]) - {"source", "shape", "classes", "schema"}
        assert given <= FORMATS[prefix].takes | {"class_names"}


def test_the_page_s_conversion_makes_weights_that_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = (block.partition("```")[0] for block in PAGE.read_text().split("```python\n")[1:])
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(PAGE), "exec"), {"model": cnn()})
    own = spec("fedkd:cnn", tmp_path, weights=Path("net.safetensors"))
    same(said(served(own), images()), truth(cnn(), images()))


def test_a_spec_is_read_without_torch() -> None:
    code = (
        "import sys, fedkd.client.vault.teachers.teacher_spec\n"
        "print([m for m in ('torch', 'onnxruntime', 'timm', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
