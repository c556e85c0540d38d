"""Images by recipe: how they travel, and the same run whether they are shown or named."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fedkd.client.sessions.recipe_renderer
from fedkd.client.institution import Institution, simulated_institution
from fedkd.client.sessions.agent import Agent, StopReason
from fedkd.client.sessions.recipe_renderer import RecipeRenderer
from fedkd.experiment import Experiment, load_experiment
from fedkd.loop import Plan, distil, drive
from fedkd.methods import cudfkd
from fedkd.methods.method import Share
from fedkd.procedural import build_prior, frozen_generator, render
from fedkd.protocol import (
    RECIPE_VERSION,
    Answers,
    Ask,
    Card,
    FrozenGenerator,
    NamedPrior,
    PullBack,
    Reason,
    Recipe,
    Refusal,
    Reply,
    Request,
    Signal,
    digest,
    fingerprint,
    without_recipe,
)
from fedkd.server.coordinator import Coordinator, ingredients
from fedkd.server.hub.hub import Hub
from fedkd.server.hub.query_encoding import EncodingSelector, QueryEncodings
from fedkd.server.remote_institutions import RemoteInstitutions
from fedkd.server.run.checkpoint import REPLIES, Checkpoint
from fedkd.simulations.engines.local import LocalInstitutions
from fedkd.wire import (
    VERSION,
    Close,
    Declined,
    Hello,
    Query,
    RecipeQuery,
    Replay,
    Welcome,
    decode_from_institution,
    encode,
)
from fedkd.wire.grpc_channels import create_server, grpc
from fedkd.wire.v1 import teacher_pb2 as pb
from tests.fedkd.procedural.recipe_fingerprints import DIGIT, example_generator, example_weights
from tests.support.hub_clients import (
    QUICK,
    SOON,
    TOKEN,
    RawClient,
    card,
    honest_answer,
    names,
    wait_until,
)

TINY = (3, 2, 2)
LOGITS = frozenset({Signal.LOGITS})


# --- which form a question has


def ask(
    source: NamedPrior | FrozenGenerator, seed: int = 1, shape: tuple[int, int, int] = TINY
) -> Ask:
    recipe = Recipe(source, seed, 4)
    return Ask(render(recipe, shape), recipe=recipe)


def taker(name: str = "north") -> Card:
    return replace(card(name), recipes=RECIPE_VERSION)


def test_a_recipe_changes_nothing_that_is_asked() -> None:
    asked = ask(NamedPrior("pink"))
    assert digest(asked) == digest(replace(asked, recipe=None))


def test_weights_come_once_their_images_have_cost_as_much_and_once_a_session() -> None:
    source = example_weights()
    assert source.weights is not None
    owner, question = replace(taker(), shape=DIGIT), ask(source, shape=DIGIT)

    def put(selector: EncodingSelector) -> str:
        encodings = QueryEncodings(Query(1, question))
        form = selector.select(encodings, owner)
        if form is encodings.explicit:
            return "shown"
        assert isinstance(form.message, RecipeQuery)
        assert isinstance(form.message.recipe.source, FrozenGenerator)
        return "named" if form.message.recipe.source.weights is None else "taught"

    cost = len(QueryEncodings(Query(1, question)).explicit.data)
    shown = -(-source.weights.nbytes // cost)
    selector = EncodingSelector()
    assert [put(selector) for _ in range(shown)] == ["shown"] * shown
    assert [put(selector) for _ in range(3)] == ["taught", "named", "named"]
    selector.start_session()
    assert [put(selector) for _ in range(2)] == ["taught", "named"]
    # Weights that change with every question are never worth it.
    learning = EncodingSelector()
    for step in range(2 * shown):
        changed = replace(source, digest=step.to_bytes(16, "big"))
        question = replace(question, recipe=Recipe(changed, 1, 4))
        assert put(learning) == "shown"


@pytest.mark.parametrize("version", [0, RECIPE_VERSION + 1])
def test_who_takes_no_such_recipes_is_shown_the_images(version: int) -> None:
    encodings = QueryEncodings(Query(1, ask(NamedPrior("pink"))))
    assert (
        EncodingSelector().select(encodings, replace(taker(), recipes=version))
        is encodings.explicit
    )
    assert EncodingSelector().select(encodings, taker()) is encodings.by_recipe


def test_more_than_an_institution_may_be_asked_to_draw_is_shown() -> None:
    encodings, wide = (
        QueryEncodings(Query(1, ask(NamedPrior("pink")))),
        replace(taker(), shape=(1, 1, 2048)),
    )
    assert EncodingSelector().select(encodings, wide) is encodings.by_recipe
    assert (
        EncodingSelector().select(encodings, replace(wide, shape=(1, 1, 2049)))
        is encodings.explicit
    )


# --- an institution that draws


def named(source: NamedPrior | FrozenGenerator, number: int = 1, **changes: object) -> RecipeQuery:
    recipe = Recipe(source, 1, 4)
    said = {"recipe": recipe, "images": fingerprint(render(recipe, TINY)), "signals": LOGITS}
    return RecipeQuery(number, **(said | changes))  # type: ignore[arg-type]


def test_an_easel_gives_the_question_or_wants_to_be_shown() -> None:
    easel = RecipeRenderer(taker())
    asked: list[Ask] = []

    def drawn_by(query: RecipeQuery) -> Reply | Refusal:
        return easel.answer(query, lambda ask: asked.append(ask) or honest_answer(ask))

    assert isinstance(drawn_by(named(NamedPrior("pink"), exact=True)), Reply)
    (drawn,) = asked
    assert (drawn.signals, drawn.exact, drawn.recipe) == (LOGITS, True, None)
    assert torch.equal(drawn.images, ask(NamedPrior("pink")).images)
    known = frozen_generator(example_generator(TINY))
    assert known is not None
    bare = replace(known, weights=None)
    for undrawn in (
        named(NamedPrior("pink"), images=bytes(16)),
        replace(named(NamedPrior("pink")), recipe=Recipe(NamedPrior("graffiti"), 1, 4)),
        replace(named(known), recipe=Recipe(bare, 1, 4)),
    ):
        refused = drawn_by(undrawn)
        assert isinstance(refused, Refusal)
        assert refused.reason is Reason.UNDRAWN
        assert "\n" not in refused.text
    assert isinstance(drawn_by(named(known)), Reply)
    again = replace(named(known), recipe=Recipe(bare, 1, 4))
    assert isinstance(drawn_by(again), Reply)
    other = replace(bare, digest=bytes(16))
    assert isinstance(drawn_by(replace(again, recipe=Recipe(other, 1, 4))), Refusal)


@contextmanager
def agent_of(
    hub: Hub, told: Card, answer: Callable[[Ask | PullBack], Reply | Refusal] = honest_answer
) -> Iterator[None]:
    agent = Agent(hub.address, TOKEN, told, answer, reconnect=QUICK)
    thread = threading.Thread(target=agent.serve)
    thread.start()
    try:
        wait_until(lambda: told.name in names(hub))
        yield
    finally:
        agent.close()
        thread.join(SOON)
        assert not thread.is_alive()


def said(hub: Hub, request: Ask, name: str = "north") -> Tensor:
    answers, absent = hub.ask({name: request}, SOON)
    assert absent == {}
    return answers[name].signals[Signal.LOGITS]


def expected(request: Ask) -> Tensor:
    return honest_answer(request).signals[Signal.LOGITS]


def test_images_are_named_to_whoever_draws_them(hub: Hub) -> None:
    heard: list[Ask | PullBack] = []

    def receive(request: Ask | PullBack) -> Reply:
        heard.append(request)
        return honest_answer(request)

    with agent_of(hub, taker(), receive), agent_of(hub, card("old")):
        part = ask(NamedPrior("pink", 0.5, 0.5))
        assert part.recipe is not None
        some = torch.tensor([True, False, True, True])
        part = replace(part, images=part.images[some], recipe=part.recipe.select(some))
        answers, _ = hub.ask(dict.fromkeys(("north", "old"), part), SOON)
        for reply in answers.values():
            assert torch.equal(reply.signals[Signal.LOGITS], expected(part))
        assert torch.equal(heard[0].images, part.images)
        new, old = hub.counters["north"], hub.counters["old"]
    assert (new.recipes, new.recipe_mismatches, old.recipes) == (1, 0, 0)
    assert (new.samples_asked, new.questions, new.answers) == (3, 1, 1)
    message = named(part.recipe.source, recipe=part.recipe, images=fingerprint(part.images))
    assert new.bytes_sent == len(encode(message))
    assert old.bytes_sent == len(encode(Query(1, part)))


def test_who_draws_otherwise_is_shown_them_once_and_from_then_on(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tampered(recipe: Recipe, shape: tuple[int, int, int]) -> Tensor:
        images = render(recipe, shape)
        if recipe.source == NamedPrior("pink"):
            images[-1, 0, 0, 0] ^= 1  # the lowest bit of one pixel
        return images

    monkeypatch.setattr(fedkd.client.sessions.recipe_renderer, "render", tampered)
    pink, leaves = ask(NamedPrior("pink")), ask(NamedPrior("leaves"))
    with agent_of(hub, taker()):
        for request in (pink, ask(NamedPrior("pink"), 2), leaves):
            assert torch.equal(said(hub, request), expected(request))
        counted = hub.counters["north"]
        assert (counted.recipes, counted.recipe_mismatches, counted.refusals) == (2, 1, 0)
        assert (counted.questions, counted.samples_asked, counted.answers) == (3, 12, 3)
    assert hub.counters["north"].protocol_violations == 0
    with agent_of(hub, taker()):  # another session: what it cannot draw is known
        said(hub, pink)
        assert hub.counters["north"].recipe_mismatches == 1


def test_a_network_is_told_once_and_painted_from_ever_after(hub: Hub) -> None:
    source = frozen_generator(example_generator(TINY, 4))
    assert source is not None
    assert source.weights is not None
    recipe = Recipe(source, 1, 256)
    request = Ask(render(recipe, TINY), recipe=recipe)
    lines = []
    with agent_of(hub, taker()):
        for _ in range(-(-source.weights.nbytes // (256 * 12)) + 2):
            before = hub.counters["north"].bytes_sent
            assert torch.equal(said(hub, request), expected(request))
            lines.append(hub.counters["north"].bytes_sent - before)
        counted = hub.counters["north"]
    assert (counted.recipes, counted.recipe_mismatches) == (2, 0)
    assert lines[-2] > source.weights.nbytes
    assert lines[-1] < 100
    assert max(lines[:-2]) < 256 * 12 + 100


def test_who_is_too_late_to_be_shown_anything_owes_nothing(hub: Hub, raw: RawClient) -> None:
    raw.send(Hello(VERSION, TOKEN, taker("slow")))
    assert raw.receive() == Welcome(VERSION)
    _, absent = hub.ask({"slow": ask(NamedPrior("pink"))}, 0.05)
    assert "no answer" in str(absent["slow"])
    question = raw.receive()
    assert isinstance(question, RecipeQuery)
    raw.send(Declined(question.id, Refusal(Reason.UNDRAWN, "show them")))
    wait_until(lambda: hub.counters["slow"].recipe_mismatches == 1)
    outcome = hub.submit("slow", ask(NamedPrior("pink"), 2))
    shown = raw.receive()
    assert isinstance(shown, Query)
    assert shown.id > question.id
    outcome.cancel()


def test_a_lie_about_a_recipe_ends_the_session(hub: Hub, raw: RawClient) -> None:
    raw.send(Hello(VERSION, TOKEN, card("liar")))
    assert raw.receive() == Welcome(VERSION)
    outcome = hub.submit("liar", ask(NamedPrior("pink")))
    shown = raw.receive()
    assert isinstance(shown, Query), "its card takes no recipes"
    raw.send(Declined(shown.id, Refusal(Reason.UNDRAWN, "show them")))
    assert isinstance(raw.receive(), Close)
    assert raw.status()[0] == "INVALID_ARGUMENT"
    with pytest.raises(Exception, match="sent its images"):
        outcome.result(SOON)


# --- a coordinator that means ill


HOSTILE = {
    "of no image": ({"count": 0}, "over"),
    "of more than fit": ({"count": 2**32 - 1}, "over"),
    "of more than seconds take": ({"count": 65_536, "shape": (3, 512, 512)}, "over"),
    "by an unknown prior": ({"prior": "graffiti"}, "undrawn"),
    "by a prior without a name": ({"prior": ""}, "over"),
    "by a prior's name of ten thousand encodings_of": ({"prior": "a" * 10_000}, "over"),
    "with a share of nothing": ({"warp": float("nan")}, "over"),
    "with a share beyond all": ({"mix": 1.5}, "over"),
    "with bits for other images": ({"kept": b"\xff\xff"}, "over"),
    "with bits for none": ({"kept": b"\0"}, "over"),
    "without a fingerprint": ({"images": b""}, "over"),
    "with another fingerprint": ({"images": bytes(16)}, "undrawn"),
    "by no source": ({"prior": None}, "over"),
    "by weights of another size": ({"weights": torch.zeros(10).half()}, "undrawn"),
    "by weights that are no numbers": ({"weights": torch.full((9,), float("nan")).half()}, "over"),
    "by weights that never came": ({"weights": ()}, "undrawn"),
    "by a network of no latent": ({"weights": torch.zeros(10).half(), "latent": 0}, "over"),
    "by a network of all latents": (
        {"weights": torch.zeros(10).half(), "latent": 2**32 - 1},
        "undrawn",
    ),
}


def hostile(
    count: int = 4,
    prior: str | None = "pink",
    warp: float = 0.0,
    mix: float = 0.0,
    kept: bytes = b"",
    images: bytes = b"\1" * 16,
    weights: Tensor | tuple[()] | None = None,
    latent: int = 4,
    **_: object,
) -> bytes:
    recipe = pb.Recipe(seed=1, count=count, kept=kept, images=images)
    payload = []
    if weights is not None:
        told = None
        if isinstance(weights, Tensor):
            told = pb.Tensor(dtype=pb.DTYPE_FLOAT16, shape=weights.shape)
            payload.append(weights.numpy().tobytes())
        recipe.network.CopyFrom(pb.Network(latent=latent, digest=bytes(16), weights=told))
    elif prior is not None:
        recipe.prior.CopyFrom(pb.Procedural(name=prior, warp=warp, mix=mix))
    asked = pb.Ask(id=1, signals=[pb.SIGNAL_LOGITS], reply_dtype=pb.DTYPE_FLOAT16, recipe=recipe)
    return bytes(pb.ConnectResponse(ask=asked, payload=payload).SerializeToString())


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_recipe_is_refused_in_one_line_or_ends_the_session(what: str) -> None:
    changes, ends = HOSTILE[what]
    shape = changes.get("shape", TINY)
    heard, asked = ill_meaning(hostile(**changes), replace(taker(), shape=shape))  # type: ignore[arg-type]
    assert asked == []
    if ends == "undrawn":
        assert isinstance(heard[0], Declined)
        assert heard[0].refusal.reason is Reason.UNDRAWN
    else:
        assert "\n" not in str(heard[0])
        assert type(heard[0]).__name__ == "Close"


def test_a_recipe_to_an_owner_who_wants_to_be_shown_ends_the_session() -> None:
    heard, asked = ill_meaning(hostile(), replace(taker(), recipes=0))
    assert (type(heard[0]).__name__, asked) == ("Close", [])
    assert "does not accept it" in str(heard[0])


def ill_meaning(data: bytes, told: Card) -> tuple[list[object], list[object]]:
    """What an agent says to a coordinator that says ``data``, and what its teacher was asked."""
    heard: list[object] = []
    asked: list[object] = []
    ready, done = threading.Event(), threading.Event()
    address: list[str] = []

    async def serve() -> None:
        async def connect(stream: grpc.aio.ServicerContext) -> None:
            await stream.read()
            await stream.write(encode(Welcome(VERSION)))
            await stream.write(data)
            heard.append(decode_from_institution(await stream.read()))
            done.set()

        server, port = create_server(connect, "127.0.0.1:0", None, 1 << 20)
        await server.start()
        address.append(f"127.0.0.1:{port}")
        ready.set()
        await asyncio.to_thread(done.wait, SOON)
        await server.stop(0)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(SOON)

    def answer(request: Ask | PullBack) -> Reply:
        asked.append(request)
        return honest_answer(request)

    agent = Agent(address[0], TOKEN, told, answer, reconnect=replace(QUICK, give_up_after=0.0))
    serving = threading.Thread(target=agent.serve)
    serving.start()
    thread.join(SOON)
    agent.close()
    serving.join(SOON)
    assert not serving.is_alive()
    assert agent.stop_reason in (StopReason.REFUSED, StopReason.STOPPED, StopReason.UNREACHABLE)
    return heard, asked


# --- whole runs


SMALL = (
    "institutions.count=2",
    "institutions.epochs=1",
    "student.steps=24",
    "questions.budget=160",
    "questions.batch=16",
    "images.warp=0.3",
    "images.mix=0.3",
    "method.evolved=0.3",
)


@dataclass
class World:
    """Two institutions, behind one hub at a time."""

    experiment: Experiment
    institutions: list[Institution]

    def run(
        self,
        recipes: bool,
        checkpoint: Checkpoint | None = None,
        dies_at: int = 0,
        takes: bool = True,
    ) -> tuple[dict[str, Tensor], dict[str, object]]:
        """The student that comes of it, and what was counted."""
        asked = 0
        with Hub(TOKEN) as hub:
            agents = [
                Agent(
                    *(
                        hub.address,
                        TOKEN,
                        replace(i.card, recipes=RECIPE_VERSION * takes),
                        i.answer,
                    ),
                    reconnect=QUICK,
                )
                for i in self.institutions
            ]
            threads = [threading.Thread(target=agent.serve) for agent in agents]
            for thread in threads:
                thread.start()
            cards = hub.wait_for(2, SOON)
            parts = replace(ingredients(self.experiment, cards, checkpoint), recipes=recipes)
            participants = RemoteInstitutions(hub, parts, cards, SOON)

            def answer(request: object) -> object:
                nonlocal asked
                asked += 1
                if asked == dies_at:
                    raise KeyboardInterrupt
                return participants.answer(request)  # type: ignore[arg-type]

            coordinator = Coordinator(parts, participants.cards, answer)  # type: ignore[arg-type]
            participants.cards = coordinator.cards
            try:
                coordinator.finish()
            finally:
                counters = {name: each.counts for name, each in hub.counters.items()}
                hub.close()
                for thread in threads:
                    thread.join(SOON)
        return coordinator.student.state_dict(), counters


@pytest.fixture(scope="module")
def vaults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vaults")


@pytest.fixture
def world(vaults: Path) -> World:
    experiment = load_experiment("digits", SMALL)
    return World(
        experiment, [simulated_institution(experiment, i, vaults / f"{i:04d}") for i in range(2)]
    )


def alike(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_named_or_shown_here_or_over_the_wire_it_is_one_student(
    world: World, vaults: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = LocalInstitutions(world.experiment, vaults, lambda count: None)
    coordinator = Coordinator(
        ingredients(world.experiment, local.cards), list(local.cards), local.answer
    )
    coordinator.finish()
    here = coordinator.student.state_dict()
    by_name, named = world.run(recipes=True)
    by_sight, shown = world.run(recipes=False)
    assert alike(here, by_name)
    assert alike(here, by_sight)
    for name, traffic in local.traffic.items():
        counted = named[name]
        of = ("questions", "recipes", "samples_asked", "bytes_sent", "bytes_received")
        assert {each: counted[each] for each in of} == {each: vars(traffic)[each] for each in of}
        assert 0 < counted["recipes"] < counted["questions"], "children have no recipe"
        assert shown[name]["recipes"] == 0
        assert shown[name]["bytes_sent"] > counted["bytes_sent"]
        assert shown[name]["bytes_received"] == counted["bytes_received"]
    # The books have the same: what was shown was charged when it was named.
    assert [i.totals["asked"] for i in world.institutions] == [160, 160]
    # And somebody who draws nothing right ends there too.
    monkeypatch.setattr(
        fedkd.client.sessions.recipe_renderer, "render", lambda recipe, shape: torch.zeros(1)
    )
    recipe_mismatches, counted = world.run(recipes=True)
    assert alike(here, recipe_mismatches)
    assert all(c["recipe_mismatches"] >= 4 for c in counted.values()), "once for each prior"


def test_a_question_by_recipe_costs_little(world: World) -> None:
    _, counted = world.run(recipes=True)
    for each in counted.values():
        shown = each["questions"] - each["recipes"]
        sent = each["bytes_sent"] - shown * (16 * 64 + 40)
        assert sent / (16 * each["recipes"]) < 8, "batches of 16 here, of 64 by default"


def test_a_run_by_recipe_is_taken_up_again_and_replayed(world: World, tmp_path: Path) -> None:
    whole, _ = world.run(recipes=True)
    folder = tmp_path / "run"
    checkpoint = Checkpoint.begin(folder, world.experiment, "local", 1e-9, record=True)
    with pytest.raises(KeyboardInterrupt):
        world.run(True, checkpoint, dies_at=6)
    checkpoint.close()
    again = Checkpoint.resume(folder)
    resumed, _ = world.run(True, again)
    again.close()
    assert alike(whole, resumed)
    assert [i.totals["asked"] for i in world.institutions] == [160, 160]
    for recipes in (True, False):  # a recording knows nothing of either
        replay = Replay(folder / REPLIES)
        parts = replace(ingredients(world.experiment, replay.cards), recipes=recipes)
        coordinator = Coordinator(
            parts, replay.cards, lambda request, replay=replay: (replay.answer(request), {})
        )
        coordinator.finish()
        assert alike(whole, coordinator.student.state_dict())


def test_an_owner_may_refuse_to_draw(vaults: Path) -> None:
    reticent = load_experiment("digits", (*SMALL, "policy.recipes=false"))
    institution = simulated_institution(reticent, 0, vaults / "0000")
    assert institution.card.recipes == 0
    local = LocalInstitutions(reticent, vaults, lambda count: None)
    parts = ingredients(reticent, local.cards)
    Coordinator(parts, list(local.cards), local.answer).finish()
    assert {of.recipes for of in local.traffic.values()} == {0}


def test_a_cap_counts_what_is_drawn_as_what_is_shown(hub: Hub, vaults: Path) -> None:
    experiment = load_experiment("digits", (*SMALL, "policy.samples=6", "policy.largest_batch=5"))
    institution = simulated_institution(experiment, 0, vaults / "0000")
    with agent_of(hub, institution.card, institution.answer):
        name = institution.card.name
        four, more = ask(NamedPrior("pink"), 1, DIGIT), ask(NamedPrior("pink"), 2, DIGIT)
        said(hub, four, name)
        said(hub, replace(four, recipe=None), name)
        assert institution.totals["asked"] == 4, "shown again, it is the same question"
        _, absent = hub.ask({name: more}, SOON)
        assert absent[name].reason is Reason.SPENT  # type: ignore[union-attr]
        recipe = Recipe(NamedPrior("pink"), 1, 6)
        _, absent = hub.ask({name: Ask(render(recipe, DIGIT), recipe=recipe)}, SOON)
        assert absent[name].reason is Reason.TOO_LARGE  # type: ignore[union-attr]
        assert hub.counters[name].recipes == 3


def test_a_generators_second_stage_is_the_same_by_recipe() -> None:
    """Weights that travel: a method whose generator learns for the first tenth alone."""
    method = cudfkd("student", adversarial_start=0, adversarial_stop=0, bn_weight=0.0, latent=16)
    spec, schedule = method.sources["generator"]
    spec = replace(spec, until=0.1)  # type: ignore[type-var]
    method = replace(method, sources={**method.sources, "generator": Share(spec, schedule)})
    plan, told = Plan(budget=64 * 30, batch=64, steps=4), replace(taker(), shape=(3, 6, 6))
    students = []
    for recipes in (True, False):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            student = nn.Sequential(nn.Flatten(), nn.Linear(108, 5))
        with Hub(TOKEN) as hub, agent_of(hub, told):
            run = distil(student, method, hub.cards, plan, {"noise": build_prior("noise")})

            def answer(request: Request, hub: Hub = hub, recipes: bool = recipes) -> Answers:
                put = request if recipes else without_recipe(request)
                return hub.ask({"north": put}, SOON)[0]  # type: ignore[dict-item]

            drive(run, answer)
            counted = hub.counters["north"]
        students.append(student.state_dict())
        assert (counted.recipes > 10) is recipes
        assert counted.recipe_mismatches == 0
    assert alike(*students)
