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
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))  # which no other test's server can have
        server.listen()
        taken = server.getsockname()[1]
        monkeypatch.setattr("fedkd.simulations.rehearsal.free_ports.LAST", taken + 1)
        monkeypatch.setattr("fedkd.simulations.rehearsal.free_ports.FIRST", taken)
        with pytest.raises(OSError, match=f"fewer than 1 of the ports {taken} to {taken + 1}"):
            free_ports(1)
        monkeypatch.setattr("fedkd.simulations.rehearsal.free_ports.FIRST", taken - 30)
        found = {port for _ in range(31) for port in free_ports(1)}  # each of the range is tried
        assert found
        assert taken not in found


@pytest.mark.skipif(not RANGE.exists(), reason="Linux tells the range of its own ports")
def test_no_connection_of_another_process_gets_one() -> None:
    assert int(RANGE.read_text().split()[0]) >= LAST or int(RANGE.read_text().split()[1]) < FIRST
