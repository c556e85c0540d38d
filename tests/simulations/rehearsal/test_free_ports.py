"""Ports for servers: free, never twice the same, and no operating system's to give away."""

import socket
from pathlib import Path

import pytest

from fedkd.simulations.rehearsal.free_ports import FIRST, LAST, free_ports

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_ports_are_free_and_never_twice_the_same() -> None:
    found = [*free_ports(5), *free_ports(45)]
    assert len(set(found)) == 50
    for port in found:
        with socket.socket() as server:
            server.bind(("127.0.0.1", port))


def test_a_port_that_somebody_listens_on_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    (taken,) = free_ports(1)
    monkeypatch.setattr("fedkd.simulations.rehearsal.free_ports.FIRST", taken)
    monkeypatch.setattr("fedkd.simulations.rehearsal.free_ports.LAST", taken + 2)
    with socket.socket() as server:
        server.bind(("127.0.0.1", taken))
        server.listen()
        assert free_ports(1) == (taken + 1,)
        with pytest.raises(OSError, match="fewer than 2"):
            free_ports(2)


@pytest.mark.skipif(not RANGE.exists(), reason="Linux tells the range of its own ports")
def test_no_connection_of_another_process_gets_one() -> None:
    assert int(RANGE.read_text().split()[0]) >= LAST or int(RANGE.read_text().split()[1]) < FIRST
