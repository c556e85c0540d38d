"""A hub's counters for Prometheus, read when they are scraped. Knows no question and no answer.

Needs the extra ``metrics``; nothing else in fedkd does.
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
COUNTED = {
    "questions": "Questions sent.",
    "answers": "Answers that came, late ones included.",
    "refusals": "Questions declined.",
    "strikes": "Sessions ended because the institution broke the law.",
    "samples_asked": "Images asked about.",
    "samples_pulled_back": "Images whose gradient was asked for.",
    "bytes_sent": "Bytes of questions.",
    "bytes_received": "Bytes of everything that the institution said.",
}
"""Fields of `fedkd.server.hub.session.Counters`, and what they count."""


class HubCollector(Collector):
    """What a hub counts, by institution."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        present = GaugeMetricFamily("fedkd_institutions_present", "Institutions that are here.")
        present.add_metric([], len(self._hub.cards))
        yield present
        counters = self._hub.counters
        for field, words in COUNTED.items():
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
