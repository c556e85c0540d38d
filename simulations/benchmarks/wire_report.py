"""What the tables of the wire come to: ratios, bytes, and what far institutions would take."""

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from fedkd.simulations.benchmarks.fedkd_transport import CLASSES
from fedkd.simulations.benchmarks.timing import console, ratio, show
from fedkd.simulations.benchmarks.transport_measurements import DEPTH, Size, Tables, Weights
from fedkd.simulations.benchmarks.wan_estimates import FORMULA, Estimate, Kind, World, estimates
from fedkd.wire.channel import grpc
from fedkd.wire.packed_rows import HEAD

SHARED = ("stream", "stream and door")
"""Ours: with ready answers behind the agent, as whoever it is held against has; and with a door."""


def told(size: Size, tables: Tables, weights: Weights) -> dict[str, Any]:
    """Everything that was measured, ratios first; those that a reader wants are printed.

    Ratios are of the tenth percentile unless they say otherwise: of ``float32`` batches between
    one institution and the coordinator.
    """
    one, slow = tables["float32"], tables["slow"]
    ratios: dict[str, float | None] = {}
    for ours in SHARED:
        name = ours.replace(" ", "_")
        for suffix, of in (("", "p10"), ("_median", "median"), ("_cpu", "cpu")):
            ratios[f"unary_over_{name}{suffix}"] = ratio(one, "unary, bytes", ours, of)
            ratios[f"{name}_over_tcp{suffix}"] = ratio(one, ours, "TCP", of)
    ratios["repeated_float_over_stream"] = ratio(slow, "unary, repeated float", "stream")
    with_flower = "Flower" in slow
    ratios["flower_over_stream"] = ratio(slow, "Flower", "stream") if with_flower else None
    heavy = {f"bytes_per_image_{name}": round(weight, 2) for name, weight in weights.items()}
    show("In short", ("", ""), [(name, str(value)) for name, value in (ratios | heavy).items()])
    far = _far(size, tables, weights)
    return {
        **ratios,
        **heavy,
        "wan": {"formula": FORMULA, **asdict(World()), "estimates": [asdict(e) for e in far]},
        "tables": {
            name: {way: asdict(figure) for way, figure in table.items()}
            for name, table in tables.items()
        },
        "of": {
            **asdict(size),
            "depth": DEPTH,
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1),
            "python": platform.python_version(),
            "grpc": grpc.__version__,
            "torch": torch.__version__,
        },
    }


def _far(size: Size, tables: Tables, weights: Weights) -> list[Estimate]:
    # An answer is packed rows of ten numbers; the rest of what passed is the question.
    answer = float((HEAD + CLASSES) * size.batch)
    kinds = [
        Kind("pixels", weights["pixels"] * size.batch - answer),
        Kind(
            "recipes",
            weights["recipe"] * size.batch - answer,
            tables["recipe"]["in process: to draw"].median,
        ),
    ]
    handling = tables[f"institutions_{size.crowds[-1]}"]["stream and door"].median
    far = estimates(kinds, answer, size.batch, handling)
    _show_far(far, handling)
    return far


def _show_far(far: Sequence[Estimate], handling: float) -> None:
    world = World()
    show(
        f"{world.institutions} institutions at {world.link / 1e6:g} Mbit/s and "
        f"{1e3 * world.rtt:g} ms, {world.samples:,} images, w = {1e3 * handling:.2f} ms",
        ("images as", "coordinator's link", "s a round", "s a run", "GB sent"),
        [
            (
                each.images,
                f"{each.uplink / 1e6:g} Mbit/s",
                f"{each.round:.2f}",
                f"{each.run:.0f}",
                f"{each.sent / 1e9:.3f}",
            )
            for each in far
        ],
    )
    console.print(FORMULA)
