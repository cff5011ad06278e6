"""The service's numbers for Prometheus; none of them names a film, a patient or a file."""

from __future__ import annotations

from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from leadapron import __version__
from leadapron.detect.verdict import ScreenWord
from leadapron.jobs.screen import OpenGate
from leadapron.service.engine import Engine, Watch

__all__ = ["CONTENT_TYPE_LATEST", "Meters"]

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
"""Upper ends of the histogram's classes."""


class Meters(Watch):
    """Counts what the engine does, in a registry of its own.

    Args:
        opened: the gate and its model, whose hashes are shown.
        gate: SHA-256 of the gate's file.
    """

    def __init__(self, opened: OpenGate, gate: str) -> None:
        registry = CollectorRegistry()
        self._registry = registry

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"leadapron_{name}", about, labels, registry=registry)

        self._accepted = counter("films_accepted", "Films accepted.")
        self._verdicts = counter("verdicts", "Films answered, by verdict.", "verdict")
        self._bad = counter("decode_failures", "Films that couldn't be decoded.")
        self._retries = counter("retries", "Attempts at a film that failed.")
        self._failed = counter("dead_letters", "Films that went to the dead letters.")
        self._expired = counter("files_wiped", "Files of expired answers that were wiped.")
        self._refused = counter("requests_refused", "Requests refused, by HTTP status.", "status")
        self._dicom = counter("dicom_refused", "Films refused, by DICOM status.", "status")
        self._left_out = counter("orthanc_left_out", "Films of Orthanc that couldn't be taken.")
        self._delivered = counter("results_delivered", "Result objects acknowledged.")
        self._committed = counter("results_committed", "Result objects that the PACS keeps.")
        self._undelivered = counter("results_given_up", "Result objects that nobody took.")
        self._unmade = counter("results_unmade", "Films whose results couldn't be made.")
        self._seconds = Histogram(
            "leadapron_seconds", "Seconds from a film's acceptance to its answer.",
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._waiting = Gauge("leadapron_queue", "Films that wait.", registry=registry)
        self._outbox = Gauge("leadapron_outbox", "Results to be delivered.", registry=registry)
        self._stored = Gauge(
            "leadapron_uncommitted", "Results delivered, not committed to.", registry=registry
        )
        self._ready = Gauge("leadapron_ready", "1 if the service is ready.", registry=registry)
        self._part = Gauge(
            "leadapron_part", "1 if a part of the service works.", ("part",), registry=registry
        )
        self._alarm = Gauge(
            "leadapron_drift_alarm", "1 if the films are no longer like the calibration films.",
            registry=registry,
        )  # fmt: skip
        self._drift = Gauge(
            "leadapron_drift", "Evidence of drift in this month's films: 0 none, 1 an alarm.",
            ("kind", "group", "about"), registry=registry,
        )  # fmt: skip
        Info("leadapron", "Version and hashes.", registry=registry).info(
            {"version": __version__, "gate": gate, "model": opened.stored.model.sha256}
        )
        for word in get_args(ScreenWord):  # so that each is there before its first film
            self._verdicts.labels(word)
        ProcessCollector(registry=registry)

    def accepted(self) -> None:
        """A film was accepted."""
        self._accepted.inc()

    def judged(self, word: ScreenWord, *, bad: bool, seconds: float) -> None:
        """A film was answered; arguments as `Watch.judged`."""
        self._verdicts.labels(word).inc()
        self._bad.inc(int(bad))
        self._seconds.observe(seconds)

    def retried(self) -> None:
        """An attempt at a film failed."""
        self._retries.inc()

    def failed(self) -> None:
        """A film went to the dead letters."""
        self._failed.inc()

    def expired(self, removed: int) -> None:
        """Answers were wiped."""
        self._expired.inc(removed)

    def refused(self, status: str) -> None:
        """A film was refused at the DICOM door; arguments as `Watch.refused`."""
        self._dicom.labels(status).inc()

    def left_out(self) -> None:
        """A film of Orthanc couldn't be taken."""
        self._left_out.inc()

    def delivered(self) -> None:
        """A result object was acknowledged."""
        self._delivered.inc()

    def committed(self) -> None:
        """The PACS committed to a result object."""
        self._committed.inc()

    def undelivered(self) -> None:
        """A result object was given up."""
        self._undelivered.inc()

    def unmade(self) -> None:
        """A film's result objects couldn't be made."""
        self._unmade.inc()

    def turned_away(self, status: int) -> None:
        """A request over HTTP was refused."""
        self._refused.labels(str(status)).inc()

    def text(self, engine: Engine) -> bytes:
        """Return the numbers in Prometheus's text format."""
        self._waiting.set(engine.waiting)
        self._outbox.set(engine.undelivered)
        self._stored.set(engine.uncommitted)
        self._ready.set(0 if engine.trouble else 1)
        for what, alive in engine.parts.items():
            self._part.labels(what).set(int(alive))
        self._alarm.set(1 if engine.alarm else 0)
        for (group, about), test in engine.figures.drift.tests.items():
            self._drift.labels(group.kind, group.name, about).set(test.evidence)
        content: bytes = generate_latest(self._registry)
        return content
