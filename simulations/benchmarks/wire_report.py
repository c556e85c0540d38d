"""Summarise the transport measurements: ratios, bytes per image, and WAN estimates."""

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from fedkd.simulations.benchmarks.fedkd_transport import CLASSES
from fedkd.simulations.benchmarks.timing import console, print_table, ratio
from fedkd.simulations.benchmarks.transport_measurements import (
    PIPELINE_DEPTH,
    BytesPerImage,
    Size,
    Tables,
)
from fedkd.simulations.benchmarks.wan_estimates import (
    FORMULA,
    Estimate,
    NetworkAssumptions,
    QueryKind,
    estimates,
)
from fedkd.wire.grpc_channels import grpc
from fedkd.wire.logit_packing import ROW_HEADER_BYTES

HUB_ALTERNATIVES = ("stream", "stream and gate")
"""The hub's: without a release gate, as the baselines are; and with one."""


def report(size: Size, tables: Tables, bytes_per_image: BytesPerImage) -> dict[str, Any]:
    """All results, ratios first; prints a summary.

    Ratios are of the tenth percentile unless named otherwise, for ``float32`` batches between one
    institution and the coordinator.
    """
    one, slow = tables["float32"], tables["slow"]
    ratios: dict[str, float | None] = {}
    for ours in HUB_ALTERNATIVES:
        name = ours.replace(" ", "_")
        for suffix, of in (("", "p10"), ("_median", "median"), ("_cpu", "cpu")):
            ratios[f"unary_over_{name}{suffix}"] = ratio(one, "unary, bytes", ours, of)
            ratios[f"{name}_over_tcp{suffix}"] = ratio(one, ours, "TCP", of)
    ratios["repeated_float_over_stream"] = ratio(slow, "unary, repeated float", "stream")
    with_flower = "Flower" in slow
    ratios["flower_over_stream"] = ratio(slow, "Flower", "stream") if with_flower else None
    byte_figures = {
        f"bytes_per_image_{name}": round(weight, 2) for name, weight in bytes_per_image.items()
    }
    print_table(
        "In short",
        ("", ""),
        [(name, str(value)) for name, value in (ratios | byte_figures).items()],
    )
    wan = _wan_estimates(size, tables, bytes_per_image)
    return {
        **ratios,
        **byte_figures,
        "wan": {
            "formula": FORMULA,
            **asdict(NetworkAssumptions()),
            "estimates": [asdict(e) for e in wan],
        },
        "tables": {
            name: {way: asdict(figure) for way, figure in table.items()}
            for name, table in tables.items()
        },
        "of": {
            **asdict(size),
            "depth": PIPELINE_DEPTH,
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1),
            "python": platform.python_version(),
            "grpc": grpc.__version__,
            "torch": torch.__version__,
        },
    }


def _wan_estimates(size: Size, tables: Tables, bytes_per_image: BytesPerImage) -> list[Estimate]:
    # An answer is packed rows of ten numbers; the rest of the bytes is the query.
    answer = float((ROW_HEADER_BYTES + CLASSES) * size.batch)
    kinds = [
        QueryKind("pixels", bytes_per_image["pixels"] * size.batch - answer),
        QueryKind(
            "recipes",
            bytes_per_image["recipe"] * size.batch - answer,
            tables["recipe"]["in process: to draw"].median,
        ),
    ]
    handling = tables[f"institutions_{size.institution_counts[-1]}"]["stream and gate"].median
    wan = estimates(kinds, answer, size.batch, handling)
    _print_wan_estimates(wan, handling)
    return wan


def _print_wan_estimates(wan: Sequence[Estimate], handling: float) -> None:
    network = NetworkAssumptions()
    print_table(
        f"{network.institutions} institutions at {network.link / 1e6:g} Mbit/s and "
        f"{1e3 * network.rtt:g} ms, {network.samples:,} images, w = {1e3 * handling:.2f} ms",
        ("images as", "coordinator's link", "s a round", "s a run", "GB sent"),
        [
            (
                each.images,
                f"{each.uplink / 1e6:g} Mbit/s",
                f"{each.round:.2f}",
                f"{each.run:.0f}",
                f"{each.sent / 1e9:.3f}",
            )
            for each in wan
        ],
    )
    console.print(FORMULA)
