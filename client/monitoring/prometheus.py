"""Prometheus metrics of an agent, counted from the events on its log.

They hold counts and times, and nothing of the content of a query or an answer.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from fedkd.errors import SettingsError
from fedkd.process.logs import facts_of

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
except ImportError:
    raise SettingsError("metrics need prometheus-client; install fedkd[metrics]") from None


class PrometheusMetrics(logging.Handler):
    """A log handler that counts events."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = registry = CollectorRegistry()
        self._questions = Counter(
            "fedkd_questions", "Queries that came, by kind.", ["kind"], registry=registry
        )
        self._samples = Counter(
            "fedkd_samples", "Images in queries that were answered.", ["kind"], registry=registry
        )
        self._refusals = Counter(
            "fedkd_refusals", "Queries that were refused.", ["reason"], registry=registry
        )
        self._seconds = Histogram(
            "fedkd_answer_seconds", "Time that a query took.", registry=registry
        )
        self._last = Gauge(
            "fedkd_last_question_timestamp_seconds", "When a query last came.", registry=registry
        )
        self._sessions = Gauge("fedkd_sessions", "Coordinators dialled now.", registry=registry)
        labels = ["verb", "outcome"]
        self._control_requests = Counter(
            "fedkd_control_requests", "Requests at the control socket.", labels, registry=registry
        )
        self._rings = Counter(
            "fedkd_rings", "Deprecated: see fedkd_control_requests.", labels, registry=registry
        )

    def emit(self, record: logging.LogRecord) -> None:
        """Count one event."""
        facts = facts_of(record)
        match record.msg, facts:
            case "question", {"kind": kind, "samples": int(samples), "seconds": float(seconds)}:
                self._questions.labels(kind).inc()
                self._seconds.observe(seconds)
                self._last.set_to_current_time()
                if facts and facts["refused"]:
                    self._refusals.labels(facts["refused"]).inc()
                else:
                    self._samples.labels(kind).inc(samples)
            case "session_begun", _:
                self._sessions.inc()
            case "session_ended", _:
                self._sessions.dec()
            case "control_request", {"verb": verb, "outcome": outcome}:
                self._control_requests.labels(verb, outcome).inc()
                self._rings.labels(verb, outcome).inc()


@contextmanager
def metrics_endpoint(host: str, port: int) -> Iterator[str]:
    """Serve the metrics over plain HTTP until the block ends.

    Args:
        host: address to listen on.
        port: 0 for any free one.

    Yields:
        host:port.

    Raises:
        SettingsError: the address cannot be had.
    """
    metrics, log = PrometheusMetrics(), logging.getLogger("fedkd.client")
    try:
        server, thread = start_http_server(port, host, metrics.registry)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {host}:{port} for metrics: {error.strerror}; choose another port"
        ) from error
    log.addHandler(metrics)
    try:
        yield f"{host}:{server.server_port}"
    finally:
        log.removeHandler(metrics)
        server.shutdown()
        server.server_close()
        thread.join()
