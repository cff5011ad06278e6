"""The public API on studies: run_study."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leadapron.api.showing import Shown
from leadapron.results.folder import read_study
from leadapron.results.table import load_rows
from leadapron.store import read_yaml
from leadapron.study import run as running
from leadapron.study.shards import Running
from leadapron.text import short_path
from leadapron.types import AUTO, Contradictions, Machine

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["StudyResult", "run_study"]


@dataclass(frozen=True, repr=False)
class StudyResult(Shown):
    """A study on disk.

    Args:
        folder: holds study.yaml, manifest.json, rows.jsonl and a folder for each run.
    """

    folder: Path

    @property
    def rows(self) -> Any:
        """The study's rows with the settings of their runs, as `load_rows`."""
        return load_rows(self.folder)

    def facts(self) -> dict[str, Any]:
        """Return the folder and a summary of the result."""
        return {
            "schema": 1,
            "verdict": "done",
            "folder": short_path(str(self.folder)),
            "summary": list(self.lines()),
        }

    def lines(self) -> Sequence[str]:
        """Return a summary of the result, in about five lines."""
        from leadapron.report.summary import study_lines

        return study_lines(self.folder)

    def report(self) -> Path:
        """Write report.html into the study's folder, and return its path.

        Raises:
            StoreError: files that can't be read or written.
        """
        from leadapron.report.page import write_report

        return write_report(self.folder)

    def plot(self) -> Figure:
        """Draw each run's attack success rate, of the backdoored model and its twin."""
        from leadapron.report.plots import plot_success

        return plot_success(read_study(self.folder))


def run_study(
    settings: Mapping[str, Any] | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    contradictions: Contradictions = "refuse",
    jobs: int = 1,
    machine: Machine = AUTO,
) -> StudyResult:
    """Carry out a study, or continue an interrupted one.

    Args:
        settings: by section and name, {"trigger": {"name": "patch", "side": 4}}, or a YAML file
            of them; a list is an axis of the grid, and missing settings get their defaults.
        out: the study's folder, new or from an earlier start of this study.
        contradictions: "refuse" or "allow" identical films with contradicting labels.
        jobs: number of processes. With several, a script needs `if __name__ == "__main__":`, since
            each process imports it.
        machine: device, precision, cache and progress.

    Raises:
        LeadapronError: settings, films or folders that can't be used.
    """
    tree = settings if isinstance(settings, Mapping) else read_yaml(Path(settings))
    folder = running.run_study(
        tree,
        Path(out),
        machine=machine,
        contradictions=contradictions,
        running=Running(jobs=jobs),
    )
    return StudyResult(folder)
