"""One batch, carried there and an answer back in every way that we know: what `wire` measures.

Every way has its partner in another process on this machine. Nothing is told apart here by what it
is worth: each table holds the ways that can be held against each other.
"""

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fedkd.procedural import draw
from fedkd.protocol import Ask, Procedural, PullBack, Recipe, Signal
from fedkd.server.hub.certificates import make_certificates
from fedkd.simulations.benchmarks.baseline_transports import Plain, plain
from fedkd.simulations.benchmarks.fedkd_transport import (
    CLASSES,
    PRESET,
    SHAPE,
    Site,
    Wire,
    institution,
    wires,
)
from fedkd.simulations.benchmarks.timing import (
    HEAD,
    Figure,
    Way,
    rows_of,
    show,
    side_by_side,
)
from fedkd.simulations.engines.flower_simulation import flower_runtime

NAME = "institution-00"
PRIOR = Procedural("levels")
LOGITS = frozenset({Signal.LOGITS})
DEPTH = 4
"""Questions that are put before any is answered. Of ours two are on the wire at a time, as the law
of a session has it, and the others wait at the hub."""


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        batch: images of a question.
        seconds: of a table.
        crowds: numbers of institutions, rising.
        flower_seconds: of the table that has Flower's round trip.
    """

    batch: int
    seconds: float
    crowds: tuple[int, ...]
    flower_seconds: float


FULL = Size(256, 9.0, (1, 4, 16, 64), 15.0)
QUICK = Size(256, 0.3, (1, 4), 0.5)

Figures = dict[str, Figure]
Tables = dict[str, Figures]
Weights = dict[str, float]
"""Bytes of a question and its answer for an image, as encoded, by how images are asked about."""


class Batch:
    """Images that are others whenever they are taken, so that no question is a repeat."""

    def __init__(self, images: Tensor) -> None:
        self._images = images
        self._scale = 255 if images.is_floating_point() else 1
        self._numbers = itertools.count()
        self.exact = images.is_floating_point()
        """Whether the answer is to be of float32 as well."""

    def images(self) -> Tensor:
        """The next, (B, C, H, W); always the same memory."""
        number = torch.tensor(list(next(self._numbers).to_bytes(8, "little")))
        self._images[0, 0, 0, :8] = number / self._scale
        return self._images

    def ask(self) -> Ask:
        """A question about the next."""
        return Ask(self.images(), exact=self.exact)


@dataclass(frozen=True)
class Parties:
    """Everybody who is there to be asked, and what about."""

    ours: Wire
    doorless: Wire
    """Ours, with nothing behind the agent: what carries questions, alone."""
    guarded: Wire
    """Ours, with mutual TLS."""
    crowd: Wire
    """Ours, many institutions in one process."""
    theirs: Plain
    pixels: Batch
    floats: Batch


def measured(size: Size, *, with_flower: bool = True) -> tuple[Tables, Weights]:
    """All tables, printed as they come, and what questions and their answers weigh.

    Raises:
        FedkdError: a partner did not come or did not answer.
    """
    torch.set_num_threads(1)
    with _parties(size) as parties:
        tables: Tables = {
            "float32": _one(parties, parties.floats, size),
            "uint8": _one(parties, parties.pixels, size),
            "depth": _at_once(parties, size),
            "mutual_tls": _guarded(parties, size),
            **{f"institutions_{n}": _crowd(parties, size, n) for n in size.crowds},
            "recipe": _by_recipe(parties, size),
            "slow": _slow(parties, size, with_flower=with_flower),
        }
        weights = _weights(parties, size.batch)
    return tables, weights


@contextmanager
def _parties(size: Size) -> Iterator[Parties]:
    rng = torch.Generator().manual_seed(0)
    shape = (size.batch, *SHAPE)
    pixels = torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)
    floats = torch.rand(shape, generator=rng)
    names = tuple(f"institution-{number:02d}" for number in range(max(size.crowds)))
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fedkd-crossings-"))
        tls = Path(folder, "tls")
        make_certificates(tls, [NAME])
        theirs = stack.enter_context(plain(max(size.crowds), tls, NAME))
        one = (NAME,)
        sites = [Site(one), Site(one, door=False), Site(one, tls), Site(names)]
        ours, doorless, guarded, crowd = stack.enter_context(wires(sites))
        yield Parties(ours, doorless, guarded, crowd, theirs, Batch(pixels), Batch(floats))


# --- tables


def _one(parties: Parties, batch: Batch, size: Size) -> Figures:
    ours, doorless, theirs = parties.ours, parties.doorless, parties.theirs
    door = institution("here")
    title = "float32, answered in float32" if batch.exact else "uint8, answered in float16"
    return _table(
        f"{size.batch} images in {title}; one institution, one question at a time",
        [
            Way("stream", lambda: doorless.ask(batch.ask()), (doorless.process,)),
            Way("stream and door", lambda: ours.ask(batch.ask()), (ours.process,)),
            Way("unary, bytes", lambda: theirs.unary([batch.images()]), (theirs.process,)),
            Way("TCP", lambda: theirs.tcp([batch.images()]), (theirs.process,)),
            Way("in process: door and books", lambda: door.answer(batch.ask())),
            Way("in process: the teacher", lambda: PRESET.ask(batch.images(), LOGITS)),
        ],
        size.seconds,
    )


def _at_once(parties: Parties, size: Size) -> Figures:
    ours, theirs, batch = parties.ours, parties.theirs, parties.pixels

    def images() -> Iterator[Tensor]:
        return (batch.images() for _ in range(DEPTH))

    def asks() -> Iterator[Ask]:
        return (batch.ask() for _ in range(DEPTH))

    return _table(
        f"{size.batch} images in uint8; one institution, {DEPTH} questions at a time, of each",
        [
            Way("stream and door", lambda: ours.ask_at_once(asks()), (ours.process,), DEPTH),
            Way("unary, bytes", lambda: theirs.unary(images()), (theirs.process,), DEPTH),
            Way("TCP", lambda: theirs.tcp(images()), (theirs.process,), DEPTH),
        ],
        size.seconds,
    )


def _guarded(parties: Parties, size: Size) -> Figures:
    ways = []
    for batch in (parties.pixels, parties.floats):
        dtype = "float32" if batch.exact else "uint8"
        for name, own in (
            ("stream and door", parties.ours),
            ("stream and door, TLS", parties.guarded),
        ):
            ways.append(Way(f"{name}, {dtype}", partial(_asked, own, batch), (own.process,)))
        for name, guarded in (("unary", False), ("unary, TLS", True)):
            call = partial(_called, parties.theirs, batch, guarded)
            ways.append(Way(f"{name}, {dtype}", call, (parties.theirs.process,)))
    return _table(f"{size.batch} images, with and without mutual TLS", ways, size.seconds)


def _asked(wire: Wire, batch: Batch) -> None:
    wire.ask(batch.ask())


def _called(theirs: Plain, batch: Batch, tls: bool) -> None:
    theirs.unary([batch.images()], guarded=tls)


def _crowd(parties: Parties, size: Size, count: int) -> Figures:
    crowd, theirs, batch = parties.crowd, parties.theirs, parties.pixels
    return _table(
        f"{size.batch} images in uint8; {count} institutions asked at once, of each",
        [
            Way("stream and door", lambda: crowd.ask(batch.ask(), count), (crowd.process,), count),
            Way(
                "unary, bytes",
                lambda: theirs.unary([batch.images()], count),
                (theirs.process,),
                count,
            ),
            Way("TCP", lambda: theirs.tcp([batch.images()], count), (theirs.process,), count),
        ],
        size.seconds / 2,
    )


def _by_recipe(parties: Parties, size: Size) -> Figures:
    """The images are drawn before they are asked about, as a source does it."""
    ours, pixels = parties.ours, parties.pixels
    seeds = itertools.count()
    drawn = [drawn_by_recipe(size.batch, next(seeds)) for _ in range(8)]
    asks = itertools.cycle(drawn)
    return _table(
        f"{size.batch} images in uint8, shown or drawn there; one institution",
        [
            Way("stream and door, pixels", lambda: ours.ask(pixels.ask()), (ours.process,)),
            Way("stream and door, recipe", lambda: ours.ask(next(asks)), (ours.process,)),
            Way("in process: to draw", lambda: drawn_by_recipe(size.batch, next(seeds))),
        ],
        size.seconds / 2,
    )


def drawn_by_recipe(batch: int, seed: int) -> Ask:
    """A question about images of a prior, with their recipe."""
    recipe = Recipe(PRIOR, seed, batch)
    return Ask(draw(recipe, SHAPE), recipe=recipe)


def _slow(parties: Parties, size: Size, *, with_flower: bool) -> Figures:
    """Ways that are too slow to take turns with the others, beside the stream."""
    ours, theirs, batch = parties.doorless, parties.theirs, parties.floats
    title = f"{size.batch} images in float32; slow ways, one institution"
    stream = Way("stream", lambda: ours.ask(batch.ask()), (ours.process,))
    floats = Way(
        "unary, repeated float",
        lambda: theirs.unary_in_floats(batch.images()),
        (theirs.process,),
        calls=1,
    )
    if not with_flower:
        return _table(title, [stream, floats], size.seconds)
    tables: list[Figures] = []

    def within(trip: Callable[[Tensor], int]) -> None:
        node = trip(batch.images())
        flower = Way("Flower", lambda: trip(batch.images()), (node,), calls=1)
        tables.append(_table(title, [stream, floats, flower], size.flower_seconds))

    with flower_runtime():
        # Flower reads its variables as it is imported.
        from fedkd.simulations.benchmarks.flower_messages import within_a_run

        within_a_run(within)
    return tables[0]


def _table(title: str, ways: Sequence[Way], seconds: float) -> Figures:
    figures = side_by_side(ways, seconds)
    show(title, HEAD, rows_of(figures, ways[0].name))
    return figures


def _weights(parties: Parties, batch: int) -> Weights:
    ours, pixels = parties.ours, parties.pixels
    cotangents = {Signal.LOGITS: torch.zeros(batch, CLASSES)}
    asked: dict[str, Ask | PullBack] = {
        "pixels": pixels.ask(),
        "float32": parties.floats.ask(),
        "recipe": drawn_by_recipe(batch, 0),
        "pull_back": PullBack(pixels.images(), cotangents),
    }
    return {name: ours.bytes_of(request) / batch for name, request in asked.items()}
