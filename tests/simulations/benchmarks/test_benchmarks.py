"""The benchmarks run and write all their figures; the values are not tested."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fedkd.core import CPU
from fedkd.simulations.benchmarks import direct, loop, transport_measurements, wire
from fedkd.simulations.benchmarks.timing import Alternative, cpu_seconds, measure_interleaved, ratio
from fedkd.simulations.benchmarks.transport_measurements import Batch, Size
from fedkd.simulations.benchmarks.wan_estimates import NetworkAssumptions, QueryKind, estimates
from fedkd.simulations.reproduction.regime import load_regime


def test_a_quick_run_leaves_every_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(transport_measurements, "QUICK", Size(4, 0.0, (1, 2), 0.0))
    path = tmp_path / "figures" / "wire.json"
    assert wire.main(["--quick", "--without-flower", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    for name in ("unary_over_stream", "unary_over_stream_cpu", "stream_over_tcp"):
        assert report[name] > 0
    assert report["flower_over_stream"] is None
    assert report["bytes_per_image_recipe"] < 13 + 200 / 4
    # A pixel is a byte, an answer thirteen; what is around them is shared by four images.
    assert 3085 < report["bytes_per_image_pixels"] < 3085 + 100 / 4
    assert 4 * 3072 < report["bytes_per_image_float32"] < 4 * 3072 + 40 + 100 / 4
    for table in ("float32", "uint8", "slow"):
        assert "stream" in report["tables"][table]
    for table in ("float32", "uint8", "depth", "institutions_1", "institutions_2"):
        assert "stream and gate" in report["tables"][table]
    assert "stream and gate, TLS, float32" in report["tables"]["mutual_tls"]
    assert {each["images"] for each in report["wan"]["estimates"]} == {"pixels", "recipes"}
    assert all(
        figure["p10"] <= figure["median"] and figure["cpu"] > 0 and figure["samples"] >= 3
        for table in report["tables"].values()
        for figure in table.values()
    )
    assert "unary, bytes" in capsys.readouterr().out


def test_every_query_is_new(tmp_path: Path) -> None:
    for images in (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(2, 3, 32, 32)):
        batch = Batch(images)
        seen = {batch.images().numpy().tobytes() for _ in range(300)}
        assert len(seen) == 300
        assert images.max() <= (1 if batch.exact else 255)


def test_alternatives_take_turns_and_cpu_time_of_child_processes_counts() -> None:
    burn = "import sys, time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    child = subprocess.Popen(
        [sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert 0.3 <= cpu_seconds(child.pid) < 5.0
    finally:
        child.kill()
        child.communicate()
    assert cpu_seconds(os.getpid()) == pytest.approx(time.process_time(), abs=1.0)

    calls: list[str] = []
    ways = [
        Alternative("slow", lambda: (calls.append("slow"), time.sleep(0.004)), unit=2, calls=2),
        Alternative("fast", lambda: calls.append("fast"), calls=2),
    ]
    figures = measure_interleaved(ways, 0.0, warm_up=0, minimum=3)
    assert calls == ["slow", "slow", "fast", "fast"] * 3
    assert figures["slow"].samples == 6
    assert figures["slow"].p10 >= 0.002  # of one of two
    assert ratio(figures, "slow", "fast") > 1


def test_wan_estimates_follow_the_formula() -> None:
    network = NetworkAssumptions(institutions=10, link=8e6, rtt=0.1, samples=1000)
    (slow, fast) = estimates([QueryKind("pixels", 1e5)], 1e3, 100, 0.001, (8e6, 8e9), network)
    # A question of 0.1 s for a link of 1 MB/s, an answer of 1 ms; ten of them share the uplink.
    assert slow.round == pytest.approx(0.1 + 10 * 0.1 + 10 * 0.001 + 10 * 0.001)
    assert fast.round == pytest.approx(0.1 + 0.1 + 0.001 + 10 * 0.001)
    (drawn,) = estimates([QueryKind("recipes", 1e5, drawing=0.5)], 1e3, 100, 0.001, (8e9,), network)
    assert drawn.round == pytest.approx(fast.round + 0.5)
    assert slow.run == pytest.approx(10 * slow.round)
    assert slow.sent == 10 * 10 * 1e5


def test_the_loop_benchmark_measures_both_loops_and_the_parts_of_ours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = loop.Case("cnn", "cnn", (1, 8, 8), 8)
    figures = loop.measure_case(case, CPU, 0.0)
    assert figures["losses_differ_by"] < 1e-3
    for what in ("student", "generator"):
        assert figures[f"{what}_steps_ratio"] > 0
        assert figures[f"{what}_steps_per_second"] > 0
    assert set(figures["parts_ms"]) >= {"bank: draw a batch", "generator: draw", "fuse answers"}
    assert all(ms >= 0 for ms in figures["parts_ms"].values())
    assert "where time goes" in capsys.readouterr().out


def test_the_direct_benchmark_compares_rounds_that_do_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = ("rounds=100", "share=1.0", "student.steps=1", "generator.batch=8", "student.batch=8")
    figures = direct.measure(load_regime("cudfkd", small), 0.0)
    assert figures["students_differ_by"] < direct.TOLERANCE
    assert figures["ratio"] > 0
    assert figures["ratio_bfloat16"] > 0
    assert "plain loop" in capsys.readouterr().out
