"""Prometheus metrics of the hub, by institution, collected when they are scraped.

Needs the extra ``metrics``.
"""

from collections.abc import Callable, Iterator
from operator import attrgetter

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from fedkd.errors import SettingsError
from fedkd.server.hub.hub import Hub

LOOPBACK = "127.0.0.1"
METRICS = {
    "questions": "Questions sent.",
    "answers": "Answers that came, late ones included.",
    "refusals": "Questions declined.",
    "protocol_violations": "Sessions ended because the institution violated the protocol.",
    "samples_asked": "Samples asked about.",
    "samples_pulled_back": "Samples whose gradient was asked for.",
    "bytes_sent": "Bytes of questions.",
    "bytes_received": "Bytes of all messages of the institution.",
}
"""Fields of `ParticipantCounters` that are exported, with help texts."""


class HubCollector(Collector):
    """Collects the counters of a hub, by institution."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        present = GaugeMetricFamily(
            "fedkd_institutions_present", "Institutions that are connected."
        )
        present.add_metric([], len(self._hub.cards))
        yield present
        counters = self._hub.counters
        for field, words in METRICS.items():
            family = CounterMetricFamily(f"fedkd_{field}", words, labels=["institution"])
            for name, each in counters.items():
                family.add_metric([name], attrgetter(field)(each))
            yield family
        seconds = SummaryMetricFamily(
            "fedkd_answer_seconds", "From a question to what came of it.", labels=["institution"]
        )
        for name, each in counters.items():
            seconds.add_metric([name], each.answers + each.refusals, each.seconds)
        yield seconds


def serve_metrics(hub: Hub, port: int = 0) -> tuple[str, Callable[[], None]]:
    """Serves ``hub``'s counters under ``/metrics``, to this machine only.

    Returns:
        The address, host:port, and a function that stops serving.

    Raises:
        SettingsError: the port is taken.
    """
    registry = CollectorRegistry()
    registry.register(HubCollector(hub))
    try:
        server, thread = start_http_server(port, LOOPBACK, registry)
    except OSError as error:
        raise SettingsError(
            f"cannot serve metrics on {LOOPBACK}:{port}: {error.strerror}; choose another port"
        ) from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return f"{LOOPBACK}:{server.server_port}", stop
