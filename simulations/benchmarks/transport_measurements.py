"""Measure the round trip of one batch over each transport: hub, unary call, TCP, Flower's messages.

Each transport has its other end in another process on this machine. A table holds the transports
that can be compared with each other.
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

from fedkd.procedural import render
from fedkd.protocol import Ask, NamedPrior, PullBack, Recipe, Signal
from fedkd.server.hub.tls_certificates import make_certificates
from fedkd.simulations.benchmarks.baseline_transports import BaselineServers, baseline_servers
from fedkd.simulations.benchmarks.fedkd_transport import (
    CLASSES,
    PRESET_TEACHER,
    SHAPE,
    HubConnection,
    HubSetup,
    connected_hubs,
    institution,
)
from fedkd.simulations.benchmarks.timing import (
    TIMING_HEADER,
    Alternative,
    Timing,
    measure_interleaved,
    print_table,
    timing_rows,
)
from fedkd.simulations.engines.flower_simulation import flower_runtime

NAME = "institution-00"
PRIOR = NamedPrior("levels")
LOGITS = frozenset({Signal.LOGITS})
PIPELINE_DEPTH = 4
"""Queries that are sent before any is answered. Of the hub's, two are in flight at a time, as the
session allows, and the others wait in the hub."""


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        batch: images of a query.
        seconds: for a table.
        institution_counts: numbers of institutions, rising.
        flower_seconds: for the table with Flower's round trip.
    """

    batch: int
    seconds: float
    institution_counts: tuple[int, ...]
    flower_seconds: float


FULL = Size(256, 9.0, (1, 4, 16, 64), 15.0)
QUICK = Size(256, 0.3, (1, 4), 0.5)

Figures = dict[str, Timing]
Tables = dict[str, Figures]
BytesPerImage = dict[str, float]
"""Encoded bytes of a query and its answer per image, by the encoding of the query."""


class Batch:
    """A batch of images that differs at every access, so that no query is a repeat."""

    def __init__(self, images: Tensor) -> None:
        self._images = images
        self._scale = 255 if images.is_floating_point() else 1
        self._numbers = itertools.count()
        self.exact = images.is_floating_point()
        """Whether the answer shall be float32 as well."""

    def images(self) -> Tensor:
        """The next batch, (B, C, H, W); always in the same memory."""
        number = torch.tensor(list(next(self._numbers).to_bytes(8, "little")))
        self._images[0, 0, 0, :8] = number / self._scale
        return self._images

    def ask(self) -> Ask:
        """A query about the next batch."""
        return Ask(self.images(), exact=self.exact)


@dataclass(frozen=True)
class Endpoints:
    """The other ends of all transports, and the batches to send."""

    ours: HubConnection
    ungated: HubConnection
    """A hub whose institutions have no release gate: the transport alone."""
    with_tls: HubConnection
    """A hub with mutual TLS."""
    many: HubConnection
    """A hub with many institutions in one process."""
    baseline: BaselineServers
    pixels: Batch
    floats: Batch


def measure_transports(size: Size, *, with_flower: bool = True) -> tuple[Tables, BytesPerImage]:
    """Measure and print all tables; returns them, and bytes per image.

    Raises:
        FedkdError: a process did not start or did not answer.
    """
    torch.set_num_threads(1)
    with _endpoints(size) as endpoints:
        tables: Tables = {
            "float32": _measure_one_institution(endpoints, endpoints.floats, size),
            "uint8": _measure_one_institution(endpoints, endpoints.pixels, size),
            "depth": _measure_pipelined(endpoints, size),
            "mutual_tls": _measure_tls(endpoints, size),
            **{
                f"institutions_{n}": _measure_many_institutions(endpoints, size, n)
                for n in size.institution_counts
            },
            "recipe": _measure_recipes(endpoints, size),
            "slow": _measure_slow_transports(endpoints, size, with_flower=with_flower),
        }
        bytes_per_image = _bytes_per_image(endpoints, size.batch)
    return tables, bytes_per_image


@contextmanager
def _endpoints(size: Size) -> Iterator[Endpoints]:
    rng = torch.Generator().manual_seed(0)
    shape = (size.batch, *SHAPE)
    pixels = torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)
    floats = torch.rand(shape, generator=rng)
    names = tuple(f"institution-{number:02d}" for number in range(max(size.institution_counts)))
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fedkd-transports-"))
        tls = Path(folder, "tls")
        make_certificates(tls, [NAME])
        baseline = stack.enter_context(baseline_servers(max(size.institution_counts), tls, NAME))
        one = (NAME,)
        setups = [HubSetup(one), HubSetup(one, gate=False), HubSetup(one, tls), HubSetup(names)]
        ours, ungated, with_tls, many = stack.enter_context(connected_hubs(setups))
        yield Endpoints(ours, ungated, with_tls, many, baseline, Batch(pixels), Batch(floats))


# --- tables


def _measure_one_institution(endpoints: Endpoints, batch: Batch, size: Size) -> Figures:
    ours, ungated, baseline = endpoints.ours, endpoints.ungated, endpoints.baseline
    gated = institution("here")
    title = "float32, answered in float32" if batch.exact else "uint8, answered in float16"
    return _table(
        f"{size.batch} images in {title}; one institution, one question at a time",
        [
            Alternative("stream", lambda: ungated.ask(batch.ask()), (ungated.process,)),
            Alternative("stream and gate", lambda: ours.ask(batch.ask()), (ours.process,)),
            Alternative(
                "unary, bytes", lambda: baseline.unary([batch.images()]), (baseline.process,)
            ),
            Alternative("TCP", lambda: baseline.tcp([batch.images()]), (baseline.process,)),
            Alternative("in process: gate, ledger", lambda: gated.answer(batch.ask())),
            Alternative(
                "in process: the teacher", lambda: PRESET_TEACHER.ask(batch.images(), LOGITS)
            ),
        ],
        size.seconds,
    )


def _measure_pipelined(endpoints: Endpoints, size: Size) -> Figures:
    ours, baseline, batch = endpoints.ours, endpoints.baseline, endpoints.pixels

    def images() -> Iterator[Tensor]:
        return (batch.images() for _ in range(PIPELINE_DEPTH))

    def asks() -> Iterator[Ask]:
        return (batch.ask() for _ in range(PIPELINE_DEPTH))

    return _table(
        f"{size.batch} images in uint8; one institution, {PIPELINE_DEPTH} questions at a time, "
        "of each",
        [
            Alternative(
                "stream and gate", lambda: ours.ask_at_once(asks()), (ours.process,), PIPELINE_DEPTH
            ),
            Alternative(
                "unary, bytes",
                lambda: baseline.unary(images()),
                (baseline.process,),
                PIPELINE_DEPTH,
            ),
            Alternative("TCP", lambda: baseline.tcp(images()), (baseline.process,), PIPELINE_DEPTH),
        ],
        size.seconds,
    )


def _measure_tls(endpoints: Endpoints, size: Size) -> Figures:
    alternatives = []
    for batch in (endpoints.pixels, endpoints.floats):
        dtype = "float32" if batch.exact else "uint8"
        for name, connection in (
            ("stream and gate", endpoints.ours),
            ("stream and gate, TLS", endpoints.with_tls),
        ):
            alternatives.append(
                Alternative(
                    f"{name}, {dtype}", partial(_ask_hub, connection, batch), (connection.process,)
                )
            )
        for name, with_tls in (("unary", False), ("unary, TLS", True)):
            call = partial(_call_unary, endpoints.baseline, batch, with_tls)
            alternatives.append(
                Alternative(f"{name}, {dtype}", call, (endpoints.baseline.process,))
            )
    return _table(f"{size.batch} images, with and without mutual TLS", alternatives, size.seconds)


def _ask_hub(wire: HubConnection, batch: Batch) -> None:
    wire.ask(batch.ask())


def _call_unary(baseline: BaselineServers, batch: Batch, tls: bool) -> None:
    baseline.unary([batch.images()], with_tls=tls)


def _measure_many_institutions(endpoints: Endpoints, size: Size, count: int) -> Figures:
    many, baseline, batch = endpoints.many, endpoints.baseline, endpoints.pixels
    return _table(
        f"{size.batch} images in uint8; {count} institutions asked at once, of each",
        [
            Alternative(
                "stream and gate", lambda: many.ask(batch.ask(), count), (many.process,), count
            ),
            Alternative(
                "unary, bytes",
                lambda: baseline.unary([batch.images()], count),
                (baseline.process,),
                count,
            ),
            Alternative(
                "TCP", lambda: baseline.tcp([batch.images()], count), (baseline.process,), count
            ),
        ],
        size.seconds / 2,
    )


def _measure_recipes(endpoints: Endpoints, size: Size) -> Figures:
    """Recipes are rendered before the query is sent, as a source does."""
    ours, pixels = endpoints.ours, endpoints.pixels
    seeds = itertools.count()
    drawn = [recipe_query(size.batch, next(seeds)) for _ in range(8)]
    asks = itertools.cycle(drawn)
    return _table(
        f"{size.batch} images in uint8, shown or drawn there; one institution",
        [
            Alternative("stream and gate, pixels", lambda: ours.ask(pixels.ask()), (ours.process,)),
            Alternative("stream and gate, recipe", lambda: ours.ask(next(asks)), (ours.process,)),
            Alternative("in process: to draw", lambda: recipe_query(size.batch, next(seeds))),
        ],
        size.seconds / 2,
    )


def recipe_query(batch: int, seed: int) -> Ask:
    """A query about images of a prior, with their recipe."""
    recipe = Recipe(PRIOR, seed, batch)
    return Ask(render(recipe, SHAPE), recipe=recipe)


def _measure_slow_transports(endpoints: Endpoints, size: Size, *, with_flower: bool) -> Figures:
    """Transports that are too slow to be interleaved with the others, beside the stream."""
    ours, baseline, batch = endpoints.ungated, endpoints.baseline, endpoints.floats
    title = f"{size.batch} images in float32; slow ways, one institution"
    stream = Alternative("stream", lambda: ours.ask(batch.ask()), (ours.process,))
    floats = Alternative(
        "unary, repeated float",
        lambda: baseline.unary_in_floats(batch.images()),
        (baseline.process,),
        calls=1,
    )
    if not with_flower:
        return _table(title, [stream, floats], size.seconds)
    tables: list[Figures] = []

    def measure(round_trip: Callable[[Tensor], int]) -> None:
        node = round_trip(batch.images())
        flower = Alternative("Flower", lambda: round_trip(batch.images()), (node,), calls=1)
        tables.append(_table(title, [stream, floats, flower], size.flower_seconds))

    with flower_runtime():
        # Flower reads its environment when it is imported.
        from fedkd.simulations.benchmarks.flower_messages import measure_in_run

        measure_in_run(measure)
    return tables[0]


def _table(title: str, alternatives: Sequence[Alternative], seconds: float) -> Figures:
    figures = measure_interleaved(alternatives, seconds)
    print_table(title, TIMING_HEADER, timing_rows(figures, alternatives[0].name))
    return figures


def _bytes_per_image(endpoints: Endpoints, batch: int) -> BytesPerImage:
    ours, pixels = endpoints.ours, endpoints.pixels
    cotangents = {Signal.LOGITS: torch.zeros(batch, CLASSES)}
    asked: dict[str, Ask | PullBack] = {
        "pixels": pixels.ask(),
        "float32": endpoints.floats.ask(),
        "recipe": recipe_query(batch, 0),
        "pull_back": PullBack(pixels.images(), cotangents),
    }
    return {name: ours.bytes_of(request) / batch for name, request in asked.items()}
