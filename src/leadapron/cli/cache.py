"""Commands that list and clear the cache."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click

from leadapron.cli.generate import Answer, command, done
from leadapron.cli.group import FAILED
from leadapron.errors import UsageError
from leadapron.text import bytes_in_words, count, printable, short_path
from leadapron.types import Machine

__all__ = ["cache_command"]


def cache_command() -> click.Command:
    """Make the command."""
    commands = [
        command("list", list_cache, machine=("cache",), progress=False),
        command("clear", clear_cache, machine=("cache",), progress=False),
    ]
    return click.Group("cache", commands, help="The cache of decoded films and of sweeps.")


def list_cache(*, verify: bool = False, machine: Machine) -> Answer:
    """List the films and sweeps that the cache holds; exit code 2 if films are damaged.

    Args:
        verify: read all files and compare their checksums.
        machine: names the cache.
    """
    from leadapron.films.cache import entries
    from leadapron.result_cache import results

    folder = _folder(machine)
    found, kept = entries(folder), results(folder)
    damaged = {entry.folder.name: entry.damaged() if verify else 0 for entry in found}
    listed = [
        {
            "key": entry.folder.name,
            **entry.facts,
            "source": short_path(str(entry.facts["source"])),
            "done": entry.done,
            "bytes": entry.size,
            "used": entry.used,
            "damaged_blocks": damaged[entry.folder.name] if verify else None,
        }
        for entry in found
    ]

    def lines() -> Iterator[str]:
        for entry in found:
            facts, key = entry.facts, entry.folder.name
            part = "" if entry.complete else f"{entry.done / facts['films']:.0%} of "
            wrong = f", DAMAGED: leadapron cache clear {key}" if damaged[key] else ""
            yield (
                f"{key}  {part}{count(facts['films'], 'film')}  {facts['size']}x{facts['size']} "
                f"{facts['dtype']}  {bytes_in_words(entry.size)}  used {_day(entry.used)}  "
                f"{short_path(str(facts['source']))}{wrong}"
            )
        for result in kept:
            size = bytes_in_words(result.size)
            yield f"{result.key}  {size}  used {_day(result.used)}  {result.about}"
        held = sum(entry.size for entry in found) + sum(result.size for result in kept)
        yield f"{bytes_in_words(held)} in {printable(str(folder))}"

    answer = done(
        lines(), folder=str(folder), entries=listed, results=[asdict(result) for result in kept]
    )
    return replace(answer, code=FAILED if any(damaged.values()) else 0)


def clear_cache(keys: Sequence[str] = (), *, machine: Machine) -> Answer:
    """Remove films and sweeps: those with the KEYS that `list` shows, or all.

    Args:
        keys: as `list` shows them; all if left out.
        machine: names the cache.
    """
    from leadapron.films.cache import clear

    folder = _folder(machine)
    removed = clear(folder, keys)
    return done([f"removed {len(removed)} from {printable(str(folder))}"], removed=removed)


def _day(time_used: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(time_used))


def _folder(machine: Machine) -> Path:
    """The folder of --cache; UsageError for "none"."""
    from leadapron.films.cache import default_folder

    folder = default_folder(machine.cache)
    if folder is None:
        raise UsageError("--cache none: there is no cache; expected a folder")
    return folder
