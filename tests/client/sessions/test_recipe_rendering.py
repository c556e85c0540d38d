"""A recipe is rendered only where the gate would answer, and never for long or for nothing."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fedkd.client.ledger.ledger import NOT_RECORDED, Ledger
from fedkd.client.release.gate import ReleaseGate
from fedkd.client.release.mode_table import build_release_mode
from fedkd.client.sessions import recipe_renderer
from fedkd.client.sessions.agent import Agent
from fedkd.client.sessions.recipe_renderer import RecipeGate, RecipeRenderer
from fedkd.client.sessions.rendering_limits import UnansweredRendering
from fedkd.models import ModuleTeacher
from fedkd.privacy import Budget, Policy
from fedkd.procedural import render
from fedkd.protocol import (
    RECIPE_VERSION,
    Ask,
    Card,
    FrozenGenerator,
    NamedPrior,
    Reason,
    Recipe,
    Refusal,
    Reply,
    Signal,
    fingerprint,
)
from fedkd.server.hub.hub import Hub
from fedkd.wire import RecipeQuery
from tests.support.hub_clients import QUICK, SOON, TOKEN, names, wait_until

K, SHAPE = 3, (1, 4, 4)
LOGITS = frozenset({Signal.LOGITS})
OPEN = Policy(LOGITS, largest_batch=8)
TEACHER = ModuleTeacher(nn.Sequential(nn.Flatten(), nn.Linear(16, K)).eval(), K)


NETWORK = FrozenGenerator(16, bytes(16), torch.zeros(8, dtype=torch.float16))
"""Whether its weights fit is only found when it is rendered."""


class Institution:
    """A gate and a ledger, asked by recipe as in a session."""

    def __init__(
        self, policy: Policy = OPEN, ledger: Path | None = None, **changes: object
    ) -> None:
        self.ledger, self.rendered = Ledger(ledger), 0
        self.card = Card("north", K, SHAPE, LOGITS, False, None, policy.largest_batch)
        release = build_release_mode(policy, TEACHER, None)
        self.gate = ReleaseGate(policy, release, self.card, self.ledger)
        asks = {
            "refusal": partial(self.gate.recipe_refusal, server="hub:1"),
            "record": partial(self.gate.record_unrendered, server="hub:1"),
        }
        self.renderer = RecipeRenderer(self.card, RecipeGate(**asks, **changes))  # type: ignore[arg-type]

    def answer(self, query: RecipeQuery) -> Reply | Refusal:
        return self.renderer.answer(query, partial(self.gate.answer, server="hub:1"))

    @property
    def rows(self) -> list[tuple[str, str, int]]:
        return [(row.decision, row.reason, row.cost) for row in self.ledger.entries()]


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """All recipes that are rendered."""
    seen: list[Recipe] = []

    def counting(recipe: Recipe, shape: tuple[int, int, int]) -> Tensor:
        seen.append(recipe)
        return render(recipe, shape)

    monkeypatch.setattr(recipe_renderer, "render", counting)
    return seen


def query(seed: int = 1, count: int = 4, kept: int = 0, **changes: object) -> RecipeQuery:
    recipe = Recipe(NamedPrior("pink"), seed, count)
    if kept:
        recipe = replace(recipe, kept=torch.arange(count) < kept)
    images = fingerprint(render(recipe, SHAPE)) if count <= 64 else bytes(16)
    said = {"recipe": recipe, "images": images, "signals": LOGITS}
    return RecipeQuery(1, **(said | changes))  # type: ignore[arg-type]


def reason(answer: Reply | Refusal) -> Reason:
    assert isinstance(answer, Refusal), answer
    assert "\n" not in answer.text
    return answer.reason


@pytest.mark.parametrize("source", [NamedPrior("pink"), NETWORK])
def test_one_kept_image_of_65536_is_not_rendered(
    source: NamedPrior | FrozenGenerator, counted: list[Recipe]
) -> None:
    north = Institution()
    bomb = query(count=65_536, kept=1)
    bomb = replace(bomb, recipe=replace(bomb.recipe, source=source))
    assert reason(north.answer(bomb)) is Reason.UNDRAWN
    assert counted == []
    assert north.rows == [("refused", "undrawn", 0)], "and it is logged"
    assert isinstance(north.answer(query(count=8, kept=1)), Reply), "as many as a batch has"


@pytest.mark.parametrize(
    ("policy", "asked", "expected"),
    [
        (replace(OPEN, servers=frozenset({"hub:2"})), query(), Reason.FORBIDDEN),
        (OPEN, query(signals=frozenset({Signal.BN_GAP})), Reason.FORBIDDEN),
        (OPEN, query(signals=frozenset()), Reason.MALFORMED),
        (replace(OPEN, largest_batch=3), query(), Reason.TOO_LARGE),
        (replace(OPEN, samples=3), query(), Reason.UNDRAWN),
        (replace(OPEN, samples_per_hour=3), query(), Reason.UNDRAWN),
    ],
)
def test_what_the_gate_would_refuse_is_not_rendered(
    policy: Policy, asked: RecipeQuery, expected: Reason, counted: list[Recipe]
) -> None:
    north = Institution(policy)
    assert reason(north.answer(asked)) is expected
    assert counted == []
    assert north.rows == [("refused", expected.value, 0)]


def test_out_of_hours_nothing_is_rendered(counted: list[Recipe]) -> None:
    now = datetime.now().astimezone()
    later = tuple((now + timedelta(hours=hour)).time() for hour in (2, 3))
    assert reason(Institution(replace(OPEN, hours=later)).answer(query())) is Reason.CLOSED
    assert counted == []


def test_without_its_ledger_nothing_is_rendered_and_the_owner_is_told(
    counted: list[Recipe], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It said that the teacher could not answer, and the log said nothing."""
    path = tmp_path / "ledger.sqlite"
    north = Institution(ledger=path)
    path.rename(tmp_path / "aside")
    assert north.answer(query()) == NOT_RECORDED
    assert counted == []
    assert "was deleted or replaced while it was in use" in caplog.text
    (tmp_path / "aside").rename(path)
    assert isinstance(north.answer(query()), Reply)
    north.ledger.close()


def test_without_privacy_left_nothing_is_rendered(counted: list[Recipe]) -> None:
    few = Policy(LOGITS, mode="local-dp", budget=Budget(8.0, 1e-5), samples=4)
    north = Institution(few)
    assert isinstance(north.answer(query()), Reply)
    counted.clear()
    open_cap = Institution(replace(few, samples=None, noise=north_noise(north)))
    assert reason(open_cap.answer(query(count=8))) is Reason.UNDRAWN
    assert counted == []


def north_noise(north: Institution) -> Fraction:
    """The noise with which four samples use the budget up."""
    return Fraction(north.gate._release.mechanism.deviation)  # type: ignore[attr-defined]


def test_a_repeat_is_still_free_where_nothing_is_left() -> None:
    spent = Institution(replace(OPEN, samples=4))
    asked = query()
    assert isinstance(spent.answer(asked), Reply)
    assert reason(spent.answer(asked)) is Reason.UNDRAWN, "it has to be shown"
    shown = Ask(render(asked.recipe, SHAPE), LOGITS)
    assert isinstance(spent.gate.answer(shown, "hub:1"), Reply)


def test_rendering_for_nothing_is_logged_and_ends(
    counted: list[Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(recipe_renderer.time, "monotonic", lambda: now[0])

    def slow(recipe: Recipe, shape: tuple[int, int, int]) -> Tensor:
        counted.append(recipe)
        now[0] += 7.0
        return render(recipe, shape)

    monkeypatch.setattr(recipe_renderer, "render", slow)
    north = Institution(unanswered=UnansweredRendering(lambda: now[0]))
    for _ in range(50):
        assert reason(north.answer(query(images=bytes(16)))) is Reason.UNDRAWN
    assert 60 <= 7 * len(counted) <= 80
    assert sum(row.reason == "undrawn" for row in north.ledger.entries()) >= 1
    assert reason(north.answer(query())) is Reason.UNDRAWN, "an honest one is to be shown"
    now[0] += 3600.0
    assert isinstance(north.answer(query()), Reply)


def endless(until: Callable[[], bool]) -> Callable[..., Tensor]:
    def rendering(recipe: Recipe, shape: tuple[int, int, int]) -> Tensor:
        while not until():
            torch.zeros(1).add_(1)  # as every prior and network calls torch, block by block
            time.sleep(0.001)
        raise AssertionError("it was not stopped")

    return rendering


def test_rendering_has_so_many_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    end = time.monotonic() + SOON
    monkeypatch.setattr(recipe_renderer, "render", endless(lambda: time.monotonic() > end))
    north = Institution()
    renderer = RecipeRenderer(north.card, seconds=0.05)
    began = time.monotonic()
    assert reason(renderer.answer(query(), north.gate.answer)) is Reason.UNDRAWN
    assert time.monotonic() - began < SOON / 2


def test_an_agent_that_is_told_to_stop_stops_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, end = threading.Event(), time.monotonic() + SOON

    def ended() -> bool:
        begun.set()
        return time.monotonic() > end

    monkeypatch.setattr(recipe_renderer, "render", endless(ended))
    card = Card("north", K, SHAPE, LOGITS, False, None, 8, recipes=RECIPE_VERSION)
    recipe = Recipe(NamedPrior("pink"), 1, 4)
    with Hub(TOKEN) as hub:
        agent = Agent(hub.address, TOKEN, card, lambda _: Reply(), reconnect=QUICK)
        thread = threading.Thread(target=agent.serve)
        thread.start()
        wait_until(lambda: "north" in names(hub))
        outcome = hub.submit("north", Ask(render(recipe, SHAPE), recipe=recipe))
        assert begun.wait(SOON)
        began = time.monotonic()
        agent.close()
        thread.join(SOON)
        assert time.monotonic() - began < SOON / 2
        outcome.cancel()
