"""What all that speaks DICOM shares: contexts, TLS, statuses, reports. It needs `serve`."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

from pynetdicom import _config, evt
from pynetdicom.presentation import PresentationContext

from leadapron.service.commitment import Report

__all__ = ["FULL", "SUCCESS", "context", "mutual_tls", "taking"]

# Its lines quote AE titles, UIDs and addresses.
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
_config.LOG_HANDLER_LEVEL = "none"

SUCCESS, FULL, FAILED = 0x0000, 0xA700, 0x0110
"""Statuses of answers (PS3.4 B.2.3, PS3.7 C)."""


def context(kind: str, syntaxes: Sequence[str]) -> PresentationContext:
    """Return a presentation context of a kind of object, for these transfer syntaxes."""
    made = PresentationContext()
    made.abstract_syntax = kind
    made.transfer_syntax = list(syntaxes)
    return made


def mutual_tls(context: ssl.SSLContext, cert: Path, key: Path, trusted: Path) -> ssl.SSLContext:
    """Return a context after both sides must show certificates; errors as `server_tls`."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    context.load_verify_locations(trusted)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def taking(take: Callable[[Report], None]) -> Callable[[evt.Event], tuple[int, None]]:
    """Return what answers N-EVENT-REPORT requests of storage commitment (PS3.4 J.3.3).

    A report of an unknown transaction is answered with success too: it is one of before a restart,
    and the PACS would send it again and again.

    Args:
        take: takes each report.
    """

    def answered(event: evt.Event) -> tuple[int, None]:
        try:
            facts = event.event_information
            report = Report(
                transaction=str(facts.TransactionUID),
                committed=[
                    str(each.ReferencedSOPInstanceUID)
                    for each in facts.get("ReferencedSOPSequence") or ()
                ],
                failed={
                    str(each.ReferencedSOPInstanceUID): int(each.FailureReason)
                    for each in facts.get("FailedSOPSequence") or ()
                },
            )
        except Exception:  # pydicom parses an element on access
            return FAILED, None
        take(report)
        return SUCCESS, None

    return answered
