"""Counters for Prometheus, read from the events on the log. Knows nobody who writes them.

They hold counts and times, nothing of a question or an answer.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from fedkd.core.logs import facts_of
from fedkd.errors import SettingsError

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
except ImportError:
    raise SettingsError("metrics need prometheus-client; install fedkd[metrics]") from None


class PrometheusMetrics(logging.Handler):
    """Counts what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = registry = CollectorRegistry()
        self._questions = Counter(
            "fedkd_questions", "Questions that came, by kind.", ["kind"], registry=registry
        )
        self._samples = Counter(
            "fedkd_samples", "Images in questions that were answered.", ["kind"], registry=registry
        )
        self._refusals = Counter(
            "fedkd_refusals", "Questions that were refused.", ["reason"], registry=registry
        )
        self._seconds = Histogram(
            "fedkd_answer_seconds", "Time that a question took.", registry=registry
        )
        self._last = Gauge(
            "fedkd_last_question_timestamp_seconds", "When a question last came.", registry=registry
        )
        self._sessions = Gauge("fedkd_sessions", "Coordinators dialled now.", registry=registry)
        self._rings = Counter(
            "fedkd_rings", "Rings at the socket.", ["verb", "outcome"], registry=registry
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
            case "ring", {"verb": verb, "outcome": outcome}:
                self._rings.labels(verb, outcome).inc()


@contextmanager
def exposed(host: str, port: int) -> Iterator[str]:
    """Answer Prometheus, in plain HTTP, until the block ends.

    Args:
        host: whose address to listen on.
        port: 0 for any that is free.

    Yields:
        host:port.

    Raises:
        SettingsError: the address cannot be had.
    """
    gauges, log = PrometheusMetrics(), logging.getLogger("fedkd.client")
    try:
        server, thread = start_http_server(port, host, gauges.registry)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {host}:{port} for metrics: {error.strerror}; choose another port"
        ) from error
    log.addHandler(gauges)
    try:
        yield f"{host}:{server.server_port}"
    finally:
        log.removeHandler(gauges)
        server.shutdown()
        server.server_close()
        thread.join()
