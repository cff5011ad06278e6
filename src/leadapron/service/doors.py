"""The doors of DICOM and Orthanc, and where results go. It needs the extra `serve`."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from leadapron.errors import UsageError
from leadapron.report.words import listed
from leadapron.service.archive import Archive, client_tls
from leadapron.service.commitment import Commitment
from leadapron.service.dicom import Reports, receiving, server_tls
from leadapron.service.engine import DAY, Engine, Watch
from leadapron.service.objects import KINDS
from leadapron.service.orthanc import Orthanc, polling, read_user
from leadapron.service.outbox import Destination, Make, Outbox
from leadapron.service.settings import Keeping, Listening, Nodes
from leadapron.service.spool import Spool
from leadapron.store import reason

__all__ = ["Doors"]

TITLE = "LEADAPRON"
"""The gate's AE title if it has no door of its own."""

NUMBER = "orthanc.json"
"""File in the spool that keeps the number of Orthanc's last change."""


class Doors:
    """Where films come in besides HTTP, and where results go.

    Args:
        listening: certificates and limits.
        nodes: DICOM nodes and Orthanc.

    Attributes:
        kinds: kinds of result objects.

    Raises:
        UsageError: a file of theirs can't be used, or an unknown kind.
    """

    def __init__(self, listening: Listening, nodes: Nodes) -> None:
        self._nodes, self._largest = nodes, listening.largest << 20
        unknown = [kind for kind in nodes.result_kinds if kind not in KINDS]
        if unknown or not nodes.result_kinds:
            raise UsageError(f"`result_kinds` {','.join(unknown)}: expected {listed(KINDS)}")
        self.kinds = nodes.result_kinds
        self._receiving = self._sending = None
        cert, key, trusted = listening.tls_cert, listening.tls_key, nodes.dicom_ca
        if trusted is not None:
            if cert is None or key is None:
                raise UsageError("`dicom_ca` needs `tls_cert` and `tls_key`")
            try:
                self._receiving = server_tls(cert, key, trusted)
                self._sending = client_tls(cert, key, trusted)
            except (OSError, ssl.SSLError) as error:
                raise _no_certificates(trusted, error) from error
        self._orthanc = None
        if nodes.orthanc is not None:
            user = read_user(nodes.orthanc_user_file)
            self._orthanc = Orthanc(nodes.orthanc, user, _https(nodes.orthanc_ca))

        self._commitment: Commitment | None = None

    def outgoing(
        self, make: Callable[[Spool], Make], keeping: Keeping, watch: Watch
    ) -> Callable[[Spool], Outbox] | None:
        """Return what makes the outbox; None if results go nowhere.

        Args:
            make: given the spool, returns what makes result objects.
            keeping: how long they are kept.
            watch: what counts.
        """
        node, door = self._nodes.archive, self._nodes.door
        destination: Destination | None = self._orthanc
        if node is not None:
            title = TITLE if door is None else door.title
            archive = Archive(node, title, self._sending, door=door is not None)
            self._commitment = Commitment(keeping.spool, archive.ask, watch)
            destination = archive
        if destination is None:
            return None
        return lambda spool: Outbox(
            spool.folder, make(spool), destination, watch, keeping.keep * DAY, self._commitment
        )

    @contextmanager
    def open(
        self, engine: Engine, bound: socket.socket | None, keeping: Keeping, watch: Watch
    ) -> Iterator[None]:
        """Let films in until the block ends.

        Args:
            engine: judges them.
            bound: listens for DICOM, if anything does.
            keeping: where the spool is.
            watch: what counts.
        """
        with ExitStack() as stack:
            if self._orthanc is not None:
                assert self._nodes.orthanc is not None
                stack.callback(self._orthanc.close)
                stack.enter_context(
                    polling(
                        engine, self._orthanc, number=keeping.spool / NUMBER,
                        url=self._nodes.orthanc, largest=self._largest,
                        backlog=self._nodes.orthanc_backlog, watch=watch,
                    )
                )  # fmt: skip
            if bound is not None:
                door, archive, commitment = self._nodes.door, self._nodes.archive, self._commitment
                assert door is not None
                reports = None
                if archive is not None and commitment is not None:
                    reports = Reports(archive.title, commitment.report)
                stack.enter_context(
                    receiving(
                        engine, bound, door.title, self._nodes.admitted, self._largest, watch,
                        self._receiving, reports,
                    )
                )  # fmt: skip
            yield


def _https(trusted: Path | None) -> ssl.SSLContext | None:
    """What Orthanc's certificate is checked with; None for the system's authorities."""
    if trusted is None:
        return None
    try:
        return ssl.create_default_context(cafile=trusted)
    except (OSError, ssl.SSLError) as error:
        raise _no_certificates(trusted, error) from error


def _no_certificates(file: Path, error: OSError) -> UsageError:
    return UsageError(f"{file} isn't a file of certificates in PEM ({reason(error)})")
