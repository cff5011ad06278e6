"""Settings of the service, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from leadapron.errors import UsageError

__all__ = ["KEEPING", "LISTENING", "Keeping", "Listening"]


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
        http: Address and port; port 0 takes a free one.
        token_file: File of bearer tokens, one per line, readable by its owner alone.
        largest: Most megabytes of a film.
        tls_cert: Certificate (PEM) for HTTPS, with its chain.
        tls_key: Its key (PEM), readable by its owner alone.
        no_tls: Accept plain HTTP from other machines, as behind a reverse proxy.
        ui: Serve the reader's page, for people whose name stands before their token.

    Raises:
        UsageError: a number out of range, a certificate without its key, or plain HTTP for other
            machines that wasn't asked for.
    """

    http: str = "127.0.0.1:8080"
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
        """Host and port; UsageError if they aren't."""
        host, colon, port = self.http.rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise UsageError(f"`http` {self.http}: expected HOST:PORT, as 127.0.0.1:8080")
        return host.removeprefix("[").removesuffix("]"), int(port)

    @property
    def local(self) -> bool:
        """Whether the address is one of this machine alone."""
        host, _ = self.address
        return host in ("localhost", "::1") or host.startswith("127.")


KEEPING, LISTENING = Keeping(), Listening()
