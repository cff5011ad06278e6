"""Remake golden values: `python tests/golden/remake.py [--same-version] [SUBJECT ...]`.

Files whose values are as stored, within the tolerance, are left alone. Changed values are written
where `store.RESULTS_VERSION` was raised: it is part of the keys of runs, gates and kept results,
and old ones would be taken for new ones. `--same-version` writes them all the same: for numbers
that lie under no such key yet.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import stored
import torch
from compute import RESULTS_VERSION, SUBJECTS


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0, or 1 where values changed and were not written."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--same-version", action="store_true")
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=", ".join(SUBJECTS))
    given = parser.parse_args(arguments)
    for name in given.subjects:
        if name not in SUBJECTS:
            parser.error(f"no subject {name}; expected {', '.join(SUBJECTS)}")
    torch.set_num_threads(1)
    refused = False
    for name in given.subjects or SUBJECTS:
        before, values = stored.read(name), SUBJECTS[name]()
        changes: list[str] = []
        if before is not None:
            changes = list(stored.differences((name,), before["values"], values))
        raised = before is None or before["results_version"] != RESULTS_VERSION
        # A trigger or detector that wasn't there before changes no number.
        changed = [line for line in changes if not line.endswith(": new")]
        if changed and not raised and not given.same_version:
            refused = True
            outcome = "NOT written: raise store.RESULTS_VERSION, or --same-version"
        elif changes or raised:
            stored.write(name, RESULTS_VERSION, values)
            outcome = "written"
        else:
            outcome = "as it was"
        sys.stdout.write("\n".join([f"{name}: {outcome}", *(f"  {c}" for c in changes[:10]), ""]))
    return int(refused)


if __name__ == "__main__":
    sys.exit(main())
