"""The DICOM door: C-ECHO and C-STORE in, reports of commitment. It needs the extra `serve`.

pynetdicom believes the length that a PDU states, and reads without a deadline. So each connection
counts what it reads: a PDU that is too long ends it, and a watchdog closes those without progress.
"""

from __future__ import annotations

import io
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from socketserver import BaseServer
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    BreastTomosynthesisImageStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    EncapsulatedPDFStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedXAImageStorage,
    EnhancedXRFImageStorage,
    MRImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    NuclearMedicineImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
    StorageCommitmentPushModel,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    Verification,
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
)
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from leadapron.service.commitment import Report
from leadapron.service.dimse import FULL, SUCCESS, context, mutual_tls, taking
from leadapron.service.engine import MODALITIES, Engine, FullError, Watch
from leadapron.service.headers import FRAMES, read_header
from leadapron.service.parts import Part

__all__ = ["Reports", "receiving", "server_tls"]

logger = logging.getLogger(__name__)

FILMS = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
)
"""Kinds of objects that are taken."""

OTHERS = (
    BreastTomosynthesisImageStorage,
    CTImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    EncapsulatedPDFStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedXAImageStorage,
    EnhancedXRFImageStorage,
    MRImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    NuclearMedicineImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
)
"""Kinds that are negotiated only to be refused with a status that says why."""

MALFORMED = "malformed"
"""What is counted in place of a status where an association was malformed."""

NOT_THERE, MISMATCH, CANT_UNDERSTAND = 0x0122, 0xA900, 0xC000
"""Further statuses of C-STORE (PS3.4 B.2.3)."""

SYNTAXES = tuple(
    each for each in ALL_TRANSFER_SYNTAXES if UID(each).name[:4] not in ("MPEG", "HEVC", "SMPT")
)
"""Transfer syntaxes of films: all but those of video and sound."""

PLAIN = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)
"""Transfer syntaxes of what holds no pixels."""

ASSOCIATIONS = 64
"""Most associations at a time; more are rejected for a while."""

CONNECTIONS = 2 * ASSOCIATIONS
"""Most connections, of which some haven't asked for an association yet; more are closed."""

PDU, LONGEST_PDU = 1 << 17, 1 << 18
"""Bytes of a PDU that the gate asks for, and most: a request with all contexts takes 150 kB."""

MOST_HELD = 1 << 29
"""Most bytes of films that are being received, over all associations."""

ROOM = 1 << 20
"""Bytes of a message beyond its film."""

PDU_SECONDS, MESSAGE_SECONDS, IDLE_SECONDS = 10.0, 120.0, 60.0
"""Most seconds for a PDU, for a message, and between two of either."""

WATCH_SECONDS = 0.25
"""Seconds between two looks of the watchdog."""

GRACE = 10.0
"""Seconds that a stop waits for associations to end."""


# --- connections that count


class _Lines:
    """Connections of the door, and what they hold.

    Args:
        largest: most bytes of a film.
    """

    def __init__(self, largest: int) -> None:
        self.most = largest + ROOM
        self._lock = threading.Lock()
        self._open: set[_Counting] = set()
        self._held = 0

    def __len__(self) -> int:
        with self._lock:
            return len(self._open)

    def add(self, line: _Counting) -> None:
        """Watch a connection."""
        with self._lock:
            self._open.add(line)

    def discard(self, line: _Counting) -> None:
        """Forget a connection that was closed."""
        self.hold(line, -line.taken)
        with self._lock:
            self._open.discard(line)

    def hold(self, line: _Counting, size: int) -> None:
        """Count bytes of a message; OSError if there are too many."""
        with self._lock:
            line.taken += size
            self._held += size
            full = line.taken > self.most or self._held > max(MOST_HELD, self.most)
            if size > 0 and full:
                raise OSError("too much at once")

    def overdue(self) -> list[_Counting]:
        """Return the connections without progress."""
        now = time.monotonic()
        with self._lock:
            return [line for line in self._open if line.deadline < now]

    def cut(self, lines: Sequence[_Counting] | None = None) -> None:
        """Cut connections, or all; their threads then find them closed."""
        with self._lock:
            chosen = list(self._open) if lines is None else list(lines)
        for line in chosen:
            with suppress(OSError):
                # Not SSLSocket's: it would take the encryption from under a reading thread.
                socket.socket.shutdown(line, socket.SHUT_RDWR)
            self.discard(line)


class _Counting(socket.socket):
    """A connection that counts PDUs, and has a deadline; one thread reads and writes it."""

    taken = 0
    deadline = float("inf")
    _lines: _Lines | None = None
    _head = b""
    _left = 0
    _message_end: float | None = None

    def watched(self, lines: _Lines) -> None:
        """Begin to count."""
        self._lines, self.deadline = lines, time.monotonic() + IDLE_SECONDS
        lines.add(self)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Read bytes of a PDU; OSError if it is too long, or if too much has come."""
        piece = super().recv(size, flags)
        if self._lines is not None and piece:
            self._lines.hold(self, len(piece))
            self._count(piece)
        return piece

    def send(self, content: Any, flags: int = 0) -> int:
        """Write bytes of an answer; the message that it answers is over."""
        if self._lines is None:
            return super().send(content, flags)
        self._lines.hold(self, -self.taken)
        self._message_end, self.deadline = None, time.monotonic() + PDU_SECONDS
        try:
            return super().send(content, flags)
        finally:
            self.deadline = time.monotonic() + IDLE_SECONDS

    def shutdown(self, how: int) -> None:
        """End the connection, if the peer hasn't: pynetdicom wouldn't close it after an error."""
        with suppress(OSError):
            super().shutdown(how)

    def close(self) -> None:
        """Close it."""
        if self._lines is not None:
            self._lines.discard(self)
        super().close()

    def _count(self, piece: bytes) -> None:
        now = time.monotonic()
        if self._message_end is None:
            self._message_end = now + MESSAGE_SECONDS
        while piece:
            if not self._left and not self._head:
                self.deadline = min(now + PDU_SECONDS, self._message_end)
            if not self._left:
                missing = 6 - len(self._head)
                self._head, piece = self._head + piece[:missing], piece[missing:]
                if len(self._head) < 6:
                    return
                self._left = int.from_bytes(self._head[2:], "big")
                if self._left > LONGEST_PDU:
                    raise OSError("a PDU is too long")
            used = min(self._left, len(piece))
            self._left, piece = self._left - used, piece[used:]
            if not self._left:
                self._head, self.deadline = b"", min(now + IDLE_SECONDS, self._message_end)


class _CountingTls(_Counting, ssl.SSLSocket):  # type: ignore[misc]
    """The same over TLS."""


# --- the door


class _Handler(RequestHandler):  # type: ignore[misc]  # untyped
    """Takes a connection: over TLS, shakes hands in the thread of this connection alone."""

    server: _Server

    def handle(self) -> None:
        if isinstance(self.request, _CountingTls):
            try:
                self.request.do_handshake()
            except (OSError, ValueError):  # a plain or unknown caller, or cut by the watchdog
                self.request.close()
                return
        super().handle()

    def _create_association(self) -> Association:
        association = super()._create_association()
        line, provider = self.request, association.dul
        waiting: Any = provider.to_user_queue

        # pynetdicom raises where a PDU comes in a state that has no use for it, or says nothing.
        def run() -> None:
            with self._contained():
                association.run_reactor()
            provider.kill_dul()
            line.shutdown(socket.SHUT_RDWR)

        def provide() -> None:
            with self._contained():
                provider.run_reactor()
            line.shutdown(socket.SHUT_RDWR)
            line.close()
            waiting.put(None)  # wakes who waits for a PDU

        association.run = run
        provider.run = provide
        return association

    @contextmanager
    def _contained(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            self.server.watch.refused(MALFORMED)


class _Server(ThreadedAssociationServer):  # type: ignore[misc]  # untyped
    """Listens on a socket that is bound already."""

    daemon_threads = True
    block_on_close = False
    socket: Any

    def __init__(
        self, *words: Any, bound: socket.socket, lines: _Lines, watch: Watch, **names: Any
    ) -> None:
        self._bound, self._lines, self.watch = bound, lines, watch
        super().__init__(*words, **names)

    def server_bind(self) -> None:
        self.socket.close()
        self.socket = self._bound
        self.server_address = self.socket.getsockname()

    def server_activate(self) -> None:
        """It listens already."""

    def get_request(self) -> tuple[socket.socket, Any]:
        taken, address = self._bound.accept()
        line: Any
        if self.ssl_context is None:
            line = _Counting(taken.family, taken.type, taken.proto, taken.detach())
        else:
            line = self.ssl_context.wrap_socket(
                taken, server_side=True, do_handshake_on_connect=False
            )
        line.setblocking(True)
        line.watched(self._lines)
        return line, address

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
        return len(self._lines) <= CONNECTIONS

    def shutdown(self) -> None:
        BaseServer.shutdown(self)
        self.server_close()

    def shutdown_request(self, request: Any) -> None:
        request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        logger.error("a connection over DICOM failed")


@dataclass(frozen=True)
class Reports:
    """Who says what it has committed to.

    Args:
        title: AE title of the archive.
        take: takes each report.
    """

    title: str
    take: Callable[[Report], None]


@contextmanager
def receiving(
    engine: Engine, bound: socket.socket, title: str, admitted: Sequence[str], largest: int,
    watch: Watch, trusted: ssl.SSLContext | None = None, reports: Reports | None = None,
) -> Iterator[None]:  # fmt: skip
    """Take films by DICOM until the block ends.

    Args:
        engine: judges them.
        bound: listens.
        title: the gate's AE title.
        admitted: AE titles that may send; empty for all.
        largest: most bytes of a film.
        watch: what counts.
        trusted: for mutual TLS, as of `server_tls`.
        reports: the archive that may report what it has committed to.
    """
    entity = AE(ae_title=title)
    entity.require_called_aet = True
    entity.require_calling_aet = _callers(admitted, reports)
    entity.maximum_associations = ASSOCIATIONS
    entity.maximum_pdu_size = PDU
    entity.acse_timeout, entity.network_timeout = PDU_SECONDS, IDLE_SECONDS
    entity.dimse_timeout = IDLE_SECONDS
    contexts = [context(Verification, PLAIN)]
    contexts += [context(each, SYNTAXES) for each in (*FILMS, *OTHERS)]
    lines = _Lines(largest)
    receiver = _Receiver(engine, watch, largest)
    server = entity.make_server(
        bound.getsockname(), contexts=contexts, ssl_context=trusted, server_class=_Server,
        evt_handlers=_handlers(receiver, admitted, reports), request_handler=_Handler,
        bound=bound, lines=lines, watch=watch,
    )  # fmt: skip
    over = threading.Event()

    def keep_watching() -> None:
        while not over.wait(WATCH_SECONDS):
            lines.cut(lines.overdue())

    parts = [
        Part("the DICOM door", server.serve_forever),
        Part("the watchdog of the DICOM door", keep_watching),
    ]
    for part in parts:
        part.start()
    host, port = bound.getsockname()[:2]
    logger.info("listening for DICOM on %s port %d", host, port)
    try:
        with engine.relying_on(*parts):
            yield
    finally:
        server.shutdown()
        lines.cut()
        over.set()
        end = time.monotonic() + GRACE
        for thread in (*parts, *server.active_associations):
            thread.join(max(0.0, end - time.monotonic()))


def _callers(admitted: Sequence[str], reports: Reports | None) -> list[str]:
    """AE titles that get an association; empty for all."""
    more = {reports.title} if admitted and reports is not None else set()
    return sorted({*admitted, *more})


def _handlers(
    receiver: _Receiver, admitted: Sequence[str], reports: Reports | None
) -> list[evt.EventHandlerType]:
    """What answers requests, for each caller those that it may make."""
    handlers: list[evt.EventHandlerType] = [(evt.EVT_C_STORE, receiver.stored)]
    if reports is None:
        return handlers

    def requested(event: evt.Event) -> None:
        caller, called = event.assoc.requestor, event.assoc.acceptor
        title = str(caller.primitive.calling_ae_title).strip()
        contexts = called.supported_contexts
        if admitted and title not in admitted:  # the archive, which reports alone
            contexts = [each for each in contexts if each.abstract_syntax == Verification]
        role = caller.role_selection.get(StorageCommitmentPushModel)
        # Who doesn't take the role of the archive would ask the gate to be one.
        if title == reports.title and role is not None and role.scp_role:
            report = context(StorageCommitmentPushModel, PLAIN)
            report.scu_role, report.scp_role = False, True
            contexts.append(report)
        called.supported_contexts = contexts

    return [
        *handlers,
        (evt.EVT_REQUESTED, requested),
        (evt.EVT_N_EVENT_REPORT, taking(reports.take)),
    ]


class _Receiver:
    """Puts the films of all associations into the spool.

    Args:
        engine: judges them.
        watch: what counts.
        largest: most bytes of a film.
    """

    def __init__(self, engine: Engine, watch: Watch, largest: int) -> None:
        self._engine, self._watch, self._largest = engine, watch, largest

    def stored(self, event: evt.Event) -> Dataset:
        """Answer a C-STORE request; success is answered once the film would survive a kill."""
        status, words = self._status(event)
        answer = Dataset()
        answer.Status = status
        if status != SUCCESS:
            answer.ErrorComment = words
            self._watch.refused(f"{status:04X}")
        return answer

    def _status(self, event: evt.Event) -> tuple[int, str]:
        request: Any = event.request
        if request.AffectedSOPClassUID not in FILMS:
            return NOT_THERE, "only CR and DX films are taken"
        try:
            content = event.encoded_dataset()
            header = read_header(io.BytesIO(content), FRAMES)
            modality = str(header.get("Modality", ""))
            frames = int(header.get("NumberOfFrames") or 1)
            named = header.SOPInstanceUID == request.AffectedSOPInstanceUID
        except Exception:  # pydicom parses an element on access
            return CANT_UNDERSTAND, "the header is damaged"
        if modality not in MODALITIES:
            return MISMATCH, f"the modality isn't {', '.join(MODALITIES)}"
        if frames != 1:
            return CANT_UNDERSTAND, "more than one frame"
        if not named:
            return MISMATCH, "the SOP instance UID isn't that of the request"
        if len(content) > self._largest:
            return CANT_UNDERSTAND, f"larger than {self._largest >> 20} MB"
        return self._accepted(content)

    def _accepted(self, content: bytes) -> tuple[int, str]:
        try:
            with closing(self._engine.arrive()) as film:
                film.write(content)
                self._engine.accept(film)
        except FullError as error:
            return FULL, f"{error}; send it again later"
        except OSError:
            return FULL, "the disk is full; send it again later"
        return SUCCESS, ""


# --- TLS


def server_tls(cert: Path, key: Path, trusted: Path) -> ssl.SSLContext:
    """Return what senders are received with: each must show a certificate that is trusted.

    Args:
        cert: the gate's certificate (PEM).
        key: its key (PEM).
        trusted: certificates (PEM).

    Raises:
        OSError, ssl.SSLError: a file can't be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = _CountingTls
    return mutual_tls(context, cert, key, trusted)
