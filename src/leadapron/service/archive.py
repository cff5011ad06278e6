"""The archive by DICOM: results out by C-STORE, then storage commitment. It needs `serve`."""

from __future__ import annotations

import io
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (
    Comprehensive3DSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from leadapron.service.commitment import NotOfferedError, Report
from leadapron.service.dimse import FULL, SUCCESS, context, mutual_tls, taking
from leadapron.service.outbox import RefusedError, Send, UnreachableError
from leadapron.service.settings import Node

__all__ = ["Archive", "client_tls"]

RESULTS = (
    Comprehensive3DSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
"""Kinds of results."""

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)

DUPLICATE, WARNING = 0x0111, 0xB
"""Statuses of C-STORE (PS3.4 B.2.3, PS3.7 C); of a warning, the first digit."""

REQUEST = 1
"""Type of the action that asks for commitment (PS3.4 J.3.2)."""

NO_COMMITMENT = (0x0112, 0x0118, 0x0122, 0x0123, 0x0124, 0x0211)
"""Statuses of a node that doesn't commit to anything: no such instance, class or action, not
authorised, unrecognised operation (PS3.7 C)."""

CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 30.0
"""Most seconds for an association, and for an answer."""

REPORT_SECONDS = 2.0
"""Seconds that a report has to come over the association on which it was asked for, where it may
come over another one as well."""


class Archive:
    """A DICOM node that results go to; a `Destination`.

    Args:
        node: the node.
        title: the gate's AE title.
        trusted: for mutual TLS, as of `client_tls`.
        door: whether the gate listens, so that reports of commitment may come later.
    """

    def __init__(
        self, node: Node, title: str, trusted: ssl.SSLContext | None = None, *, door: bool = False
    ) -> None:
        self._node, self._title, self._trusted, self._door = node, title, trusted, door

    @contextmanager
    def connected(self) -> Iterator[Send]:
        """Associate, and return what stores an object; see `Destination`."""
        contexts = [context(each, SYNTAXES) for each in RESULTS]
        with self._association(contexts) as association:
            if not association.is_established:
                raise _unreachable(association)
            yield partial(_stored, association)

    def ask(
        self, transaction: str, objects: Mapping[str, str], take: Callable[[Report], None]
    ) -> None:
        """Ask it to commit to objects; see `commitment.Ask`."""
        came = threading.Event()

        def taken(report: Report) -> None:
            take(report)
            came.set()

        with self._association(
            [context(StorageCommitmentPushModel, SYNTAXES)],
            (evt.EVT_N_EVENT_REPORT, taking(taken)),
        ) as association:
            if not association.is_established:
                if association.rejected_contexts:
                    raise NotOfferedError("the node offers no storage commitment")
                raise _unreachable(association)
            _ask(association, transaction, objects)
            if not came.wait(REPORT_SECONDS if self._door else ANSWER_SECONDS) and not self._door:
                raise NotOfferedError(
                    "the node's report didn't come over the same association; give `dicom` an "
                    "address where the node may send it"
                )

    @contextmanager
    def _association(
        self, contexts: Sequence[PresentationContext], *handlers: evt.EventHandlerType
    ) -> Iterator[Association]:
        """An association that ends with the block; it may have been rejected or aborted."""
        with ExitStack() as stack:

            def opened(event: evt.Event) -> None:
                connection = event.assoc.dul.socket
                if connection is not None and connection.socket is not None:
                    # pynetdicom sets no deadline, and may forget to close it.
                    connection.socket.settimeout(ANSWER_SECONDS)
                    stack.callback(connection.socket.close)

            entity = AE(ae_title=self._title)
            entity.connection_timeout = entity.acse_timeout = CONNECT_SECONDS
            entity.dimse_timeout = entity.network_timeout = ANSWER_SECONDS
            try:
                association = entity.associate(
                    self._node.host,
                    self._node.port,
                    contexts=list(contexts),
                    ae_title=self._node.title,
                    tls_args=None if self._trusted is None else (self._trusted, self._node.host),
                    evt_handlers=[(evt.EVT_CONN_OPEN, opened), *handlers],
                )
            except (OSError, RuntimeError, ValueError) as error:
                raise UnreachableError(f"no association ({type(error).__name__})") from None
            try:
                yield association
                if association.is_established:
                    association.release()
            finally:
                if association.is_established:
                    association.abort()


def _unreachable(association: Association) -> UnreachableError:
    rejected = association.is_rejected
    return UnreachableError(
        "it rejects the association: wrong AE titles?" if rejected else "no association"
    )


def _stored(association: Association, content: bytes) -> None:
    """Store an object; see `Destination`."""
    try:
        answer = association.send_c_store(dcmread(io.BytesIO(content)))
    except ValueError:  # no context was accepted for it
        raise RefusedError("it takes no objects of this kind") from None
    except (OSError, RuntimeError):
        answer = Dataset()
    if "Status" not in answer:
        raise UnreachableError("it doesn't answer")
    status = int(answer.Status)
    if status >> 8 == FULL >> 8:
        raise UnreachableError(f"it answers with status 0x{status:04X}")
    # A warning stores the object; a duplicate is there already (PS3.4 B.2.3).
    if status not in (SUCCESS, DUPLICATE) and status >> 12 != WARNING:
        raise RefusedError(f"status 0x{status:04X}")


def _ask(association: Association, transaction: str, objects: Mapping[str, str]) -> None:
    """Ask for commitment; errors as `commitment.Ask`."""
    request = Dataset()
    request.TransactionUID = transaction
    request.ReferencedSOPSequence = []
    for instance, kind in objects.items():
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = kind, instance
        request.ReferencedSOPSequence.append(item)
    try:
        answer, _ = association.send_n_action(
            request, REQUEST, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
    except (OSError, RuntimeError, ValueError):
        answer = Dataset()
    if "Status" not in answer:
        raise UnreachableError("it doesn't answer")
    status = int(answer.Status)
    if status in NO_COMMITMENT:
        raise NotOfferedError(f"the node refuses storage commitment with status 0x{status:04X}")
    if status != SUCCESS:
        raise UnreachableError(f"it answers with status 0x{status:04X}")


def client_tls(cert: Path, key: Path, trusted: Path) -> ssl.SSLContext:
    """Return what results are sent with; arguments and errors as `server_tls`."""
    return mutual_tls(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), cert, key, trusted)
