"""Settings of the service, with their defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from leadapron.errors import UsageError

__all__ = ["KEEPING", "LISTENING", "NODES", "Keeping", "Listening", "Node", "Nodes", "is_local"]

HTTP = "127.0.0.1:8080"
"""Where the service listens for HTTP if it has no other door."""

LONGEST_TITLE = 16
"""Most characters of an AE title (PS3.5 6.2)."""


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """Where films and answers are kept, and how many.

    Args:
        spool: Folder of accepted films and answers, for this service alone.
        keep: Days that answers and dead letters are kept; films are wiped once they are judged.
        queue: Most films that may wait; further ones are refused until there is room.

    Raises:
        UsageError: a number out of range.
    """

    spool: Path = Path("spool")
    keep: float = 7.0
    queue: int = 256

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 36_500:
            raise UsageError(f"`keep` {self.keep:g}: expected days, above 0 and at most 36,500")
        if not 1 <= self.queue <= 100_000:
            raise UsageError(f"`queue` {self.queue}: expected 1 to 100,000 films")


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Who reaches the service, and how.

    Args:
        http: Address and port of HTTP; port 0 takes a free one. Left out, 127.0.0.1:8080 if films
            come by no other way, or with `ui`.
        token_file: File of tokens, one per line, readable by its owner alone; a name before a token
            makes it a reader's.
        largest: Most megabytes of a film.
        tls_cert: Certificate (PEM) for HTTPS, with its chain.
        tls_key: Its key (PEM), readable by its owner alone.
        no_tls: Accept plain HTTP and plain DICOM from other machines, as behind a proxy.
        ui: Serve the reader's page, for people whose name stands before their token.

    Raises:
        UsageError: a number out of range, a certificate without its key, or plain HTTP for other
            machines that wasn't asked for.
    """

    http: str | None = None
    token_file: Path = Path("token")
    largest: int = 64
    tls_cert: Path | None = None
    tls_key: Path | None = None
    no_tls: bool = False
    ui: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.largest <= 2048:
            raise UsageError(f"`largest` {self.largest}: expected 1 to 2,048 megabytes")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UsageError("HTTPS needs both `tls_cert` and `tls_key`")
        if self.tls_cert is None and not self.no_tls and not self.local:
            raise UsageError(
                f"{self.http} is reached by other machines, and tokens would travel in the clear; "
                "give `tls_cert` and `tls_key`, or `no_tls` behind a reverse proxy"
            )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of HTTP; UsageError if they aren't."""
        return _address("http", self.http or HTTP, f"HOST:PORT, as {HTTP}")

    @property
    def local(self) -> bool:
        """Whether HTTP is reached by this machine alone."""
        return is_local(self.address[0])


@dataclass(frozen=True, kw_only=True)
class Node:
    """A DICOM node.

    Args:
        title: its AE title.
        host: name or address.
        port: its port.
    """

    title: str
    host: str
    port: int

    @classmethod
    def parsed(cls, option: str, text: str) -> Node:
        """Return the node of AET@HOST:PORT; UsageError if it isn't one."""
        expected = "AET@HOST:PORT, as GATE@127.0.0.1:11112"
        title, at, place = text.partition("@")
        if not at or not _is_title(title):
            raise UsageError(f"`{option}` {text}: expected {expected}")
        host, port = _address(option, place, expected)
        return cls(title=title, host=host, port=port)


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """DICOM nodes and the Orthanc that films come from and results go to.

    Args:
        dicom: Take films by DICOM as AET@HOST:PORT, the gate's AE title and where it listens.
        callers: AE titles that may send films, separated by commas. Left out, the one that results
            are sent to; if none is, all of this machine.
        results: Send the results of DICOM films, by whatever way they came, to AET@HOST:PORT, and
            ask it for storage commitment.
        result_kinds: Kinds of result objects, separated by commas: sr (structured report), gsps
            (presentation state over the film), sc (picture) and seg (region as pixels).
        dicom_ca: Certificates (PEM) of nodes that are trusted: DICOM then runs over TLS in both
            directions, with the gate's own certificate and key.
        orthanc: Take films from the Orthanc at this URL, by polling; results go there unless they
            are sent by DICOM.
        orthanc_user_file: File with USER:PASSWORD for Orthanc, readable by its owner alone.
        orthanc_ca: Certificates (PEM) that Orthanc's is checked against, for an https URL; the
            system's if left out.
        orthanc_backlog: Take the films too that are in Orthanc at the first start.

    Raises:
        UsageError: a node or a URL that isn't one, or a way in without a way out.
    """

    dicom: str | None = None
    callers: Sequence[str] = ()
    results: str | None = None
    result_kinds: Sequence[str] = ("sr", "gsps")
    dicom_ca: Path | None = None
    orthanc: str | None = None
    orthanc_user_file: Path | None = None
    orthanc_ca: Path | None = None
    orthanc_backlog: bool = False

    def __post_init__(self) -> None:
        for title in self.callers:
            if not _is_title(title):
                raise UsageError(f"`callers` {title!r}: expected AE titles of 1 to 16 characters")
        door, _ = self.door, self.archive
        if door is not None and self.results is None and self.orthanc is None:
            raise UsageError(
                "`dicom` takes films, and nobody gets their results; give `results` "
                "AET@HOST:PORT or `orthanc` URL"
            )
        if door is not None and not self.admitted and not is_local(door.host):
            raise UsageError(
                f"`dicom` {self.dicom} is reached by other machines; give the AE titles that may "
                "send as `callers`"
            )
        if self.orthanc is not None:
            _refuse_odd_url(self.orthanc)
        elif self.orthanc_user_file or self.orthanc_ca or self.orthanc_backlog:
            raise UsageError(
                "`orthanc_user_file`, `orthanc_ca` and `orthanc_backlog` need `orthanc`"
            )
        if self.orthanc_ca is not None and not (self.orthanc or "").startswith("https:"):
            raise UsageError("`orthanc_ca` needs an `orthanc` URL that begins with https://")
        if self.dicom_ca is not None and self.dicom is None and self.results is None:
            raise UsageError("`dicom_ca` needs `dicom` or `results`")

    @property
    def given(self) -> bool:
        """Whether films come in by DICOM or from Orthanc."""
        return self.dicom is not None or self.orthanc is not None

    @property
    def door(self) -> Node | None:
        """Where films come in by DICOM; UsageError if it isn't a node."""
        return None if self.dicom is None else Node.parsed("dicom", self.dicom)

    @property
    def archive(self) -> Node | None:
        """Where results go by DICOM; UsageError if it isn't a node."""
        return None if self.results is None else Node.parsed("results", self.results)

    @property
    def admitted(self) -> Sequence[str]:
        """AE titles that may send; empty for all."""
        if self.callers or self.archive is None:
            return self.callers
        return (self.archive.title,)


def is_local(host: str) -> bool:
    """Return whether an address is one of this machine alone."""
    return host in ("localhost", "::1") or host.startswith("127.")


def _is_title(text: str) -> bool:
    """Whether a text is an AE title, without the spaces that don't count."""
    return (
        0 < len(text) <= LONGEST_TITLE
        and text == text.strip()
        and text.isascii()
        and text.isprintable()
        and "\\" not in text
    )


def _address(option: str, text: str, expected: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"`{option}` {text}: expected {expected}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _refuse_odd_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    plain = not (parts.username or parts.password or parts.query or parts.fragment)
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not plain:
        raise UsageError(
            "`orthanc` is no URL of an Orthanc; expected http://HOST:PORT, as "
            "http://127.0.0.1:8042, and the user in `orthanc_user_file`"
        )


KEEPING, LISTENING, NODES = Keeping(), Listening(), Nodes()
