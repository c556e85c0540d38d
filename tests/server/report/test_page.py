"""The run folder and its page, on a run made up from real digits. No engine takes part."""

import json
import math
import os
import re
import warnings
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sklearn.datasets import load_digits
from torch import nn

from fedkd.errors import DataError, SettingsError
from fedkd.models import build_network
from fedkd.server.report.formatting import duration, percent, size
from fedkd.server.report.page import build_report
from fedkd.server.report.plot_style import spread, thin
from fedkd.server.report.records.event_schema import Trained, parse_event
from fedkd.server.report.records.run_folder import RunFolder, load_run
from fedkd.server.report.records.run_record import Gallery
from fedkd.server.report.records.student_export import export_onnx, save_student

NAMES = ["Charité Berlin", "Klinikum Süd", "St. Mary's", "Hôpital Nord", "Ospedale Centro"]
ACCURACIES = [0.462, 0.704, 0.571, 0.583, 0.431]
ORIGINS = ["pink", "level sets", "leaves", "strokes", "evolution"]
QUESTIONS, ROUNDS, STEPS = 20_000, 40, 6_000


def teacher(index: int, **changes: Any) -> dict[str, Any]:
    counts = np.random.default_rng(index).dirichlet([0.3] * 10) * 300
    return {
        "name": NAMES[index],
        "model": "lenet5",
        "accuracy": ACCURACIES[index],
        "samples_asked": QUESTIONS,
        "samples_pulled_back": 0,
        "bytes_received": 412_345 + index,
        "bytes_sent": 1_310_720,
        "refusals": int(index == 3),
        "epsilon": 4.0 if index < 2 else None,
        "delta": 1e-5 if index < 2 else None,
        "class_counts": counts.astype(int).tolist(),
        "mechanism": "DP-SGD, one training image" if index < 2 else None,
        "signals": ["logits"],
        **changes,
    }


def result(**changes: Any) -> dict[str, Any]:
    return {
        "student": {"accuracy": 0.9653, "best_test_accuracy": 0.968, "agreement": 0.9712},
        "ensemble": {"accuracy": 0.9813},
        "teachers": [teacher(index) for index in range(5)],
        "method": "logits",
        "engine": "simulation",
        "seed": 0,
        "student_steps": STEPS,
        "generator_steps": 0,
        "seconds": 74.2,
        "config": {
            "experiment": "digits",
            "student": {"model": "lenet5", "steps": STEPS, "learning_rate": 0.002},
            "sources": {"priors": ORIGINS, "batch": 500},
            "ensemble": {"rule": "additive", "damping": 10.0},
        },
        "versions": {"fedkd": "0.1.0", "torch": "2.12.1", "python": "3.11.7"},
        **changes,
    }


def gallery(number: int = 48) -> Gallery:
    rng = np.random.default_rng(0)
    digits = load_digits().images[:number] * 15.9
    share = np.linspace(0.9, 0.25, number)[:, None, None]
    images = (1 - share) * digits + share * rng.uniform(0, 255, digits.shape)
    return Gallery(
        images=images[:, None].astype(np.uint8),
        origin=np.array([ORIGINS[index % 5] for index in range(number)]),
        asked_at=np.arange(number) // 8 * 4_000,
        label=load_digits().target[:number].astype(np.int64),
        confidence=rng.uniform(0.4, 0.99, number).astype(np.float32),
    )


def tell_events(folder: RunFolder, names: list[str]) -> None:
    rng = np.random.default_rng(1)
    for step in range(0, STEPS + 1, 25):
        progress = step / STEPS
        asked = min(QUESTIONS, (step // 75 + 1) * QUESTIONS // ROUNDS)
        if step % 75 == 0 and step // 75 < ROUNDS:
            at = (step // 75) % 5 if step < 1500 else 4
            entropies = {name: 0.5 + 0.09 * i + progress * 0.1 for i, name in enumerate(ORIGINS)}
            folder.append_event(
                {
                    "kind": "asked",
                    "asked": asked,
                    "origin": ORIGINS[at],
                    "class_entropy": dict(list(entropies.items())[: step // 75 + 1]),
                    "entropy": 0.86 + 0.1 * progress,
                }
            )
        loss = 1.6 * math.exp(-4 * progress) + 0.2 + rng.normal(0, 0.03)
        folder.append_event(
            {
                "kind": "trained",
                "step": step,
                "asked": asked,
                "loss": loss,
                "difficulty": loss * 1.1,
                "weight": 1 - 0.5 * math.exp(-5 * progress),
                "curriculum_lambda": 0.2 + 2.5 * progress,
                "difficulty_by_institution": {
                    name: loss * (1 + 0.2 * index) for index, name in enumerate(names)
                },
            }
        )
        if step % 150 == 0:
            score = 0.967 - 0.87 * math.exp(-9 * progress) + rng.normal(0, 0.004)
            folder.append_event({"kind": "scored", "step": step, "asked": asked, "accuracy": score})


def finished_run(path: Path) -> RunFolder:
    """A finished run of five institutions."""
    folder = RunFolder.create(path / "digits-run")
    tell_events(folder, NAMES)
    for step in range(0, 1200, 40):
        terms = {"one_hot": 2 / (1 + step / 200), "bn_gap": 3.0, "batch_entropy": -2.0}
        weights = {"one_hot": 1.0, "bn_gap": 1.0, "batch_entropy": step / 1200}
        folder.append_event({"kind": "generated", "step": step, "terms": terms, "weights": weights})
    folder.append_event({"kind": "lost", "name": NAMES[4], "reason": "went silent for 30 s"})
    folder.write_gallery(gallery())
    folder.write_result(result())
    return folder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished run, whose folder a test may change."""
    return finished_run(tmp_path)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a finished run."""
    return page_of(finished_run(tmp_path_factory.mktemp("page")))


class Outline(HTMLParser):
    """Tags, attributes and visible text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def page_of(folder: RunFolder) -> str:
    return build_report(folder.path).read_text(encoding="utf-8")


def figure_ids(page: str) -> set[str]:
    return set(re.findall(r'<svg[^>]*aria-label="([^"]*)"', page))


def test_the_page_shows_every_headline_and_section(page: str) -> None:
    text = Outline(page).text
    for words in (
        "One student from five teachers",
        "Student 96.5% after the last step; agrees with the ensemble on 97.1%",
        "Ensemble 98.1%",
        "Best single teacher 70.4% Klinikum Süd",
        "Questions per teacher 20,000",
        "1.3 MB sent to it, 412 kB received",
        "2 of 5 guarantee ε ≤ 4 at these; the others guarantee nothing",
        "The best on the way was 96.8%",
        "Ospedale Centro lost after 20,000: went silent for 30 s",
        "DP-SGD, one training image",
        "student.learning_rate 0.002",
        "torch 2.12.1",
        "fedkd report digits-run",
    ):
        assert words in text, words
    assert len(figure_ids(page)) == 6
    assert page.count("data:image/png;base64,") == 48
    assert len(page.encode()) < 1_500_000


def test_the_page_needs_nothing_but_itself(page: str) -> None:
    outline = Outline(page)
    assert not {"script", "link", "iframe", "object", "base"} & set(outline.tags)
    addresses = [
        value or ""
        for name, value in outline.attributes
        if name in ("src", "href", "xlink:href", "action")
    ]
    assert addresses
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in addresses)


def test_every_id_is_unique_and_every_reference_finds_it(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', page)) <= set(ids)


def test_rebuilding_gives_the_same_bytes(run: RunFolder) -> None:
    first = build_report(run.path).read_bytes()
    assert build_report(run.path).read_bytes() == first


def test_figures_are_well_formed(page: str) -> None:
    figures = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    boxes = [ElementTree.fromstring(figure).get("viewBox", "").split() for figure in figures]
    assert [box[2] for box in boxes] == ["1000", "366"] * 6, "for wide pages and for telephones"
    ids = re.findall(r'\bid="([^"]*)"', "".join(figures))
    assert len(ids) == len(set(ids))


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    names = [
        "<script>alert(1)</script>",
        "$x_{$",
        '" onload="x',
        "_hidden",
        "東京病院 & \t\n Söhne",
    ]
    folder = RunFolder.create(tmp_path / "<img src=x> & 'run'")
    tell_events(folder, names)
    folder.append_event({"kind": "asked", "asked": 30_000, "origin": "</style><script>"})
    folder.append_event({"kind": "lost", "name": names[0], "reason": "<b onclick=x>"})
    hostile = [teacher(index, name=name) for index, name in enumerate(names)]
    config = {"</pre><script>": {"$": "<script>"}}
    folder.write_result(
        result(teachers=hostile, config=config, method="<script>", versions={"<i>": "<u>"})
    )
    page = page_of(folder)
    outline = Outline(page)
    assert not {"script", "img", "u"} & set(outline.tags)
    assert not [name for name, _ in outline.attributes if name.startswith("on")]
    for name in names:
        assert " ".join(name.split()) in outline.text
    for figure in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        ElementTree.fromstring(figure)


def test_who_came_went_and_was_banned_is_told(run: RunFolder, page: str) -> None:
    assert "interrupted and resumed" not in Outline(page).text
    run.append_event({"kind": "joined", "name": "Late"})
    for moment in range(3):
        run.append_event({"kind": "lost", "name": "Late", "reason": f"reason {moment}"})
        run.append_event({"kind": "asked", "asked": 20_000 + 100 * moment, "origin": "pink"})
        run.append_event({"kind": "returned", "name": "Late"})
    run.append_event({"kind": "banned", "name": "Late", "reason": "<b>the law</b>"})
    run.write_result(result(resumed=2))
    text = Outline(page_of(run)).text
    for words in (
        "interrupted and resumed 2 times ; nothing",
        "Late joined after 20,000",
        "lost 3 times, from 20,000 to 20,100; the last time: reason 2",
        "returned 3 times, the last after 20,200",
        "banned after 20,200: <b>the law</b>",
    ):
        assert words in text, words


def test_images_are_called_by_the_names_of_classes(run: RunFolder, page: str) -> None:
    assert "class 3" in Outline(page).text
    names = ["benign", "<b>ill</b>", *map(str, range(2, 10))]
    run.write_result(result(classes=names))
    text = Outline(page_of(run)).text
    assert "benign" in text
    assert "<b>ill</b>" in text
    assert "class 3" in text
    assert "class 0" not in text


def test_a_run_is_called_by_what_ran_and_else_by_its_method(run: RunFolder, page: str) -> None:
    assert "<li>method <b>logits</b></li>" in page
    run.write_result(result(method_title="procedural samples, no generator"))
    assert "<li>method <b>procedural samples, no generator</b></li>" in page_of(run)


def test_no_promise_is_never_shown_as_a_number(run: RunFolder) -> None:
    silent = [teacher(index, epsilon=None, delta=None) for index in range(5)]
    run.write_result(result(teachers=silent))
    text = Outline(page_of(run)).text
    assert "Privacy none guaranteed by any institution" in text
    assert "No institution guarantees differential privacy." in text
    assert "ε" not in text
    assert text.count("none guaranteed") == 1 + 5
    assert text.count("guarantees no differential privacy") == 5
    assert text.count("carry no guarantee") == 1


def test_a_zero_epsilon_is_refused(run: RunFolder) -> None:
    with pytest.raises(DataError, match=r"teachers\.0\.epsilon: .*greater than 0"):
        run.write_result(result(teachers=[teacher(0, epsilon=0.0)]))


def test_what_is_not_known_is_said_so(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    unknown = [teacher(i, accuracy=None, class_counts=None, signals=[]) for i in range(3)]
    bare = result(student={"accuracy": None}, ensemble={"accuracy": None}, teachers=unknown)
    folder.write_result(bare)
    page = page_of(folder)
    text = Outline(page).text
    for words in (
        "Student not known",
        "Ensemble not known",
        "no institution released its accuracy",
        "The student was not scored",
        "No training steps were recorded",
        "No images were kept",
        "No institution released how many training images",
    ):
        assert words in text, words
    assert "Class counts, released by" not in text
    assert not figure_ids(page)


@pytest.mark.parametrize("kind", ["asked", "trained", "scored", "generated", "lost"])
def test_a_run_without_one_kind_of_event_still_has_a_page(run: RunFolder, kind: str) -> None:
    events = run.path / "events.jsonl"
    lines = events.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["kind"] != kind]
    assert 0 < len(kept) < len(lines)
    events.write_text("".join(kept), encoding="utf-8")
    missing = {"asked": 1, "trained": 2, "scored": 1, "generated": 1, "lost": 0}[kind]
    assert len(figure_ids(page_of(run))) == 6 - missing


def test_a_run_without_a_curriculum_shows_the_loss_instead(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.append_event({"kind": "trained", "step": 1, "asked": 10, "loss": 1.0})
    folder.write_result(result(teachers=[teacher(0, class_counts=None)]))
    page = page_of(folder)
    assert figure_ids(page) == {"Student loss over its steps"}
    assert "The run recorded no curriculum" in Outline(page).text


def test_lambda_is_shown_only_where_a_curriculum_weighed_samples(tmp_path: Path) -> None:
    for name, pace in (("paced", 3.0), ("plain", None)):
        folder = RunFolder.create(tmp_path / name)
        step = {"kind": "trained", "step": 1, "asked": 10, "loss": 1.0, "difficulty": 1.0}
        folder.append_event({**step, "weight": 1.0, "curriculum_lambda": pace})
        folder.write_result(result(teachers=[teacher(0, class_counts=None)]))
        page = page_of(folder)
        assert ("Lambda of the curriculum" in page) == (pace is not None)
        assert ("The run had no curriculum." in page) == (pace is None)


def test_one_score_and_one_step_are_enough_for_a_page(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.append_event({"kind": "asked", "asked": 10, "origin": "pink"})
    folder.append_event({"kind": "trained", "step": 1, "asked": 10, "loss": 1.0, "weight": 1.0})
    folder.append_event({"kind": "scored", "step": 1, "asked": 10, "accuracy": 0.1})
    folder.write_result(result(teachers=[teacher(0)]))
    assert len(figure_ids(page_of(folder))) == 4


def test_many_institutions_and_many_classes_fit_in_a_page(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    names = [f"institution {index} of a great many of them" for index in range(40)]
    tell_events(folder, names)
    many = [teacher(i % 5, name=name, class_counts=[i] * 200) for i, name in enumerate(names)]
    rng = np.random.default_rng(0)
    number = 200
    folder.write_gallery(
        Gallery(
            images=rng.integers(0, 256, (number, 3, 96, 96), dtype=np.uint8),
            origin=np.array(["pink"] * number),
            asked_at=np.arange(number),
            label=np.zeros(number, np.int64),
            confidence=np.ones(number, np.float32),
        )
    )
    folder.write_result(result(teachers=many))
    page = page_of(folder)
    assert "One student from 40 teachers" in page
    assert page.count("data:image/png;base64,") == 48 + 2, "the heat map is drawn for two widths"
    assert len(page.encode()) < 1_800_000


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    RunFolder.create(tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").write_text("mine")
    with pytest.raises(SettingsError, match="is not empty") as caught:
        RunFolder.create(tmp_path / "empty")
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingsError, match="cannot make"):
        RunFolder.create(tmp_path / "empty" / "notes.txt")


def test_a_result_cut_off_in_the_middle_leaves_the_old_one(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (run.path / "result.json").read_bytes()

    def fail(*_: object) -> None:
        raise OSError("the disk went away")

    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="went away"):
            run.write_result(result(seed=1))
    assert (run.path / "result.json").read_bytes() == before
    assert not list(run.path.glob(".*"))
    run.write_result(result(seed=1))
    assert load_run(run.path).result.seed == 1


def test_a_result_that_breaks_the_contract_is_on_disk_all_the_same(run: RunFolder) -> None:
    broken = result(student_steps=7)
    del broken["method"]
    with pytest.raises(DataError, match=r"^result\.json: method: Field required"):
        run.write_result(broken)
    assert json.loads((run.path / "result.json").read_text())["student_steps"] == 7


def test_the_weights_that_changed_in_training_are_drawn_and_no_ramp_without_a_generator(
    page: str, tmp_path: Path
) -> None:
    text = Outline(page).text
    assert "weight of batch_entropy" in text  # it rose; the two others stayed
    assert "weight of one_hot" not in text
    alone = RunFolder.create(tmp_path / "logits-only")
    tell_events(alone, NAMES)
    alone.append_event({"kind": "trained", "step": 1, "asked": 1, "loss": 1.0, "hardness": 0.5})
    alone.write_gallery(gallery())
    alone.write_result(result())
    text = Outline(page_of(alone)).text
    assert "ardness" not in text
    assert "weight of batch_entropy" not in text


def test_events_of_earlier_releases_tell_their_pace_as_lambda() -> None:
    told = {"kind": "trained", "step": 1, "asked": 1, "loss": 1.0, "pace": 3.5}
    event = parse_event(told, "events.jsonl:1")
    assert isinstance(event, Trained)
    assert event.curriculum_lambda == 3.5


def test_numbers_that_json_cannot_name_become_null(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.append_event(
        {
            "kind": "trained",
            "step": np.int64(3),
            "asked": 5,
            "loss": torch.tensor(math.nan),
            "curriculum_lambda": np.float32("inf"),
            "weight": torch.tensor(0.5),
        }
    )
    line = json.loads((folder.path / "events.jsonl").read_text())
    assert line["step"] == 3
    assert line["loss"] is None
    assert line["curriculum_lambda"] is None
    assert line["weight"] == 0.5


def test_an_event_outside_the_contract_is_refused_and_not_written(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    with pytest.raises(DataError, match=r"event 1: .*'asked', 'trained'"):
        folder.append_event({"kind": "asekd", "asked": 1})
    with pytest.raises(DataError, match=r"event 1: scored\.accuracy: .*less than or equal to 1"):
        folder.append_event({"kind": "scored", "step": 1, "asked": 1, "accuracy": 96.5})
    assert not (folder.path / "events.jsonl").exists()


def test_events_of_earlier_releases_are_read_and_written_by_their_names_now(run: RunFolder) -> None:
    run.append_event({"kind": "back", "name": "Late"})
    run.append_event({"kind": "struck", "name": "Late", "reason": "garbage"})
    file = run.path / "events.jsonl"
    *_, back, struck = file.read_text().splitlines()
    assert [json.loads(line)["kind"] for line in (back, struck)] == ["returned", "banned"]
    old = file.read_text().replace('"returned"', '"back"').replace('"banned"', '"struck"')
    file.write_text(old)
    run.write_result(result())
    text = Outline(page_of(run)).text
    assert "returned after" in text
    assert "banned after" in text


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    for step in range(5):
        folder.append_event({"kind": "scored", "step": step, "asked": 0, "accuracy": 0.5})
    with (folder.path / "events.jsonl").open("a") as file:
        file.write('{"kind": "sco')
    again = RunFolder.resume(folder.path, events=3)
    again.append_event({"kind": "scored", "step": 9, "asked": 0, "accuracy": 0.5})
    lines = (folder.path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 9]
    assert again.events == 4
    with pytest.raises(DataError, match="holds 4 events; the checkpoint knew of 9"):
        RunFolder.resume(folder.path, events=9)


def test_a_folder_that_cannot_be_read_is_one_line(run: RunFolder, tmp_path: Path) -> None:
    def complaint(path: Path) -> str:
        with pytest.raises(DataError) as caught:
            load_run(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "is not a folder" in complaint(tmp_path / "nowhere")
    (tmp_path / "unfinished").mkdir()
    assert "no run finished there" in complaint(tmp_path / "unfinished")
    (run.path / "gallery.npz").write_bytes(b"PK\x03\x04 and nothing more")
    assert "is not a gallery" in complaint(run.path)
    with (run.path / "events.jsonl").open("a") as file:
        file.write('{"kind": "sco')
    assert re.search(r"events\.jsonl line \d+ is not JSON", complaint(run.path))
    (run.path / "result.json").write_text('{"student": \n{}')
    assert "result.json is not JSON" in complaint(run.path)
    (run.path / "result.json").write_text("[]")
    assert "the whole: " in complaint(run.path)


def test_a_gallery_survives_the_disk_and_refuses_arrays_that_do_not_fit(run: RunFolder) -> None:
    kept = load_run(run.path).gallery
    assert kept is not None
    written = gallery()
    for name in ("images", "origin", "asked_at", "label", "confidence"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(written, name))
    with pytest.raises(DataError, match=r"gallery label has shape \(2,\); expected \(48,\)"):
        Gallery(written.images, written.origin, written.asked_at, np.zeros(2, int), kept.confidence)
    with pytest.raises(DataError, match="expected uint8"):
        Gallery(written.images / 255, *[written.label] * 4)


class Student(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
        )
        self.twin = self.body[4]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images)  # type: ignore[no-any-return]


def test_a_student_is_written_twice_and_both_agree(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    student = Student()
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("error")
        parity = folder.write_student(
            student, (1, 8, 8), torch.Generator().manual_seed(0), {"classes": "10"}
        )
    assert student.training
    assert parity["argmax_agreement"] == 1.0
    assert 0 <= parity["max_difference"] < 1e-4
    with safe_open(tmp_path / "run" / "student.safetensors", framework="pt") as file:
        notes = json.loads(file.metadata()["fedkd"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert notes["model"] == "Student"
    assert notes["shape"] == "1x8x8"
    assert notes["classes"] == "10"
    for name, tensor in student.state_dict().items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=0)
    folder.write_result(result(onnx=parity))
    assert "student.onnx against torch" in Outline(page_of(folder)).text


class Undecided(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) if images.sum() > 0 else -images.flatten(1)


def test_a_student_that_cannot_be_exported_is_skipped_with_a_reason(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    save_student(Undecided(), tmp_path, (1, 2, 2))
    skipped = export_onnx(Undecided(), tmp_path / "student.onnx", (1, 2, 2), rng)
    assert skipped["skipped"].startswith("torch cannot export Undecided (")
    assert not (tmp_path / "student.onnx").exists()


@pytest.mark.parametrize("name", ["cnn", "resnet9-narrow", "wrn16-1"])
def test_students_with_a_pool_over_places_are_exported(tmp_path: Path, name: str) -> None:
    rng = torch.Generator().manual_seed(0)
    parity = export_onnx(
        build_network(name, 4, (3, 8, 8), 0), tmp_path / "student.onnx", (3, 8, 8), rng
    )
    assert parity["argmax_agreement"] == 1.0
    assert parity["max_difference"] < 1e-4


def test_without_the_extra_the_export_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    rng = torch.Generator().manual_seed(0)
    answer = export_onnx(Undecided(), tmp_path / "student.onnx", (1, 2, 2), rng)
    assert answer == {"skipped": "install fedkd[onnx]"}


def test_numbers_read_well() -> None:
    assert percent(0.9653) == "96.5%"
    assert percent(None) == "not known"
    units = [size(number).replace("\xa0", " ") for number in (0, 999, 1000, 12_345_678, 999_999)]
    assert units == ["0 B", "999 B", "1.0 kB", "12.3 MB", "1.0 MB"]
    assert [duration(s) for s in (8.42, 72, 7_500)] == ["8.4 s", "1 min 12 s", "2 h 05 min"]


def test_thinning_keeps_both_ends() -> None:
    kept = thin(list(range(1001)), most=11)
    assert kept == list(range(0, 1001, 100))
    assert thin([1, 2], most=11) == [1, 2]


def test_labels_that_collide_are_moved_apart_and_stay_in_order() -> None:
    moved = spread([0.5, 0.5, 0.1, 0.99], gap=0.1, low=0.0, high=1.0)
    assert moved == pytest.approx([0.5, 0.6, 0.1, 0.99])
    crowded = spread([0.98, 0.99, 1.0], gap=0.1, low=0.0, high=1.0)
    assert crowded == pytest.approx([0.8, 0.9, 1.0])


def test_colours_of_plots_are_those_of_the_reader(page: str) -> None:
    figures = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert not re.findall(r"#[0-9a-f]{6}", figures), "each colour has a variable"
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", figures))
    assert {"--ink", "--soft", "--page", "--series-0"} <= used
    css = page[page.index("<style>") : page.index("</style>")]
    dark = css[css.index("prefers-color-scheme: dark") :]
    for name in used:
        assert css.count(f"{name}: #") == 2, f"{name} in light and in dark"
        assert f"{name}: #" in dark


def test_the_page_leads_with_held_back_samples_where_no_test_data_is(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    for step in (10, 20):
        facts = {"count": 120, "agreement": 0.9, "kl": 0.1, "ece": 0.03}
        folder.append_event({"kind": "held_back", "step": step, "asked": 10, **facts})
    close = {"count": 120, "agreement": 0.9125, "kl": 0.1, "fidelity": 0.8, "ece": 0.03}
    scores: dict[str, Any] = {"student": {"held_back": close}, "ensemble": {}}
    folder.write_result(result(**scores, teachers=[teacher(0, accuracy=None)]))
    page = page_of(folder)
    first = page[page.index('<div class="card first">') : page.index('<div class="card">')]
    assert "Student as the ensemble" in first
    assert "91.2%" in first
    assert "120 held-back samples" in first
    assert page.count("Scores on held-back samples") == 2
    folder.write_result(result(student={"accuracy": 0.9653, "held_back": close}))
    page = page_of(folder)
    assert "Student as the ensemble" not in page, "test data says more"
