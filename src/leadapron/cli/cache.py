"""Commands on what the cache keeps."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from leadapron.cli.group import FAILED
from leadapron.cli.options import cache_option, json_option
from leadapron.errors import UsageError
from leadapron.text import bytes_in_words, count, printable, short_path

__all__ = ["cache_command"]


def cache_command() -> click.Command:
    """Make the command."""
    show = click.Command(
        "list",
        params=[
            click.Option(["--verify"], is_flag=True, help="Read all of it, compare checksums."),
            cache_option(),
            json_option(),
        ],
        callback=_run_cache_list,
        help="List the films and sweeps that the cache holds; exit code 2 if films are damaged.",
    )
    remove = click.Command(
        "clear",
        params=[
            click.Argument(["keys"], nargs=-1),
            cache_option(),
            json_option(),
        ],
        callback=_run_cache_clear,
        help="Remove films and sweeps: those with the KEYS that `list` shows, or all.",
    )
    return click.Group("cache", [show, remove], help="The cache of decoded films and of sweeps.")


def _run_cache_list(verify: bool, cache: str | None, as_json: bool) -> int:
    from dataclasses import asdict

    from leadapron.films.cache import entries
    from leadapron.result_cache import results

    folder = _cache_folder(cache)
    found, kept = entries(folder), results(folder)
    damaged = {entry.folder.name: entry.damaged() if verify else 0 for entry in found}
    if as_json:
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
        answer = {"schema": 1, "verdict": "done", "folder": str(folder), "entries": listed}
        answer["results"] = [asdict(result) for result in kept]
        click.echo(json.dumps(answer, indent=2))
        return FAILED if any(damaged.values()) else 0
    for entry in found:
        facts, key = entry.facts, entry.folder.name
        done = "" if entry.complete else f"{entry.done / facts['films']:.0%} of "
        used = time.strftime("%Y-%m-%d", time.localtime(entry.used))
        wrong = f", DAMAGED: leadapron cache clear {key}" if damaged[key] else ""
        click.echo(
            f"{key}  {done}{count(facts['films'], 'film')}  {facts['size']}x{facts['size']} "
            f"{facts['dtype']}  {bytes_in_words(entry.size)}  used {used}  "
            f"{short_path(str(facts['source']))}{wrong}"
        )
    for result in kept:
        used = time.strftime("%Y-%m-%d", time.localtime(result.used))
        click.echo(f"{result.key}  {bytes_in_words(result.size)}  used {used}  {result.about}")
    held = sum(entry.size for entry in found) + sum(result.size for result in kept)
    click.echo(f"{bytes_in_words(held)} in {printable(str(folder))}")
    return FAILED if any(damaged.values()) else 0


def _run_cache_clear(keys: tuple[str, ...], cache: str | None, as_json: bool) -> None:
    from leadapron.films.cache import clear

    folder = _cache_folder(cache)
    removed = clear(folder, keys)
    if as_json:
        click.echo(json.dumps({"schema": 1, "verdict": "done", "removed": removed}, indent=2))
    else:
        click.echo(f"removed {len(removed)} from {printable(str(folder))}")


def _cache_folder(given: str | None) -> Path:
    """The folder of --cache; UsageError for none."""
    from leadapron.films.cache import default_folder

    folder = default_folder(given)
    if folder is None:
        raise UsageError("--cache none: there is no cache; expected a folder")
    return folder
