"""Checks that type checkers know every public name of the package, by pyright."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parents[1] / "src"

TORCH = {"leadapron.save_classifier", "leadapron.models.classifier.save_classifier"}
"""Names that pyright cannot vouch for: they take a `NetworkClassifier`, which holds a subclass of
torch's Module, and pyright knows no type for that metaclass."""


def main() -> None:
    """Run pyright --verifytypes, and end in 1 where it doesn't know a public name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pyright", help="the program")
    parser.add_argument("python", help="the interpreter that has the package's own needs")
    options = parser.parse_args()
    done = subprocess.run(
        [options.pyright, "--pythonpath", options.python, "--verifytypes", "leadapron",
         "--ignoreexternal", "--outputjson"],
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
    )  # fmt: skip
    unknown, checked = unknown_names(json.loads(done.stdout), public_names())
    for line in unknown:
        print(line)
    print(f"{checked} public names and members, {len(unknown)} without a known type")
    sys.exit(1 if unknown or not checked else 0)


def public_names() -> dict[str, str]:
    """Return each public name and what it is called where it is defined."""
    sys.path.insert(0, str(SOURCES))
    import leadapron

    names = [name for name in leadapron.__all__ if name != "__version__"]
    found = {name: getattr(leadapron, name) for name in names}
    return {name: f"{each.__module__}.{each.__qualname__}" for name, each in found.items()}


def unknown_names(report: dict[str, Any], names: dict[str, str]) -> tuple[list[str], int]:
    """Return what pyright doesn't know, in words, and how many symbols were looked at.

    Args:
        report: what pyright says.
        names: the public names, as `public_names` returns them.
    """
    homes = tuple(names.values())
    public = {f"leadapron.{name}" for name in names}
    unknown, checked = [], 0
    for symbol in report["typeCompleteness"]["symbols"]:
        name: str = symbol["name"]
        if name not in public and not any(f"{name}.".startswith(f"{home}.") for home in homes):
            continue
        checked += 1
        public.discard(name)
        if name not in TORCH and (not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"]):
            reasons = "; ".join(each["message"] for each in symbol["diagnostics"])
            unknown.append(f"{name}: {reasons}")
    return unknown + [f"{name}: pyright doesn't see it" for name in sorted(public)], checked


if __name__ == "__main__":
    main()
