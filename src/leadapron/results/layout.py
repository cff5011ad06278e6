"""Paths of the files of a study, its runs and a zoo. They are defined only here.

    STUDY/study.yaml  manifest.json  rows.jsonl  report.html
          runs/{twin,backdoored}-KEY/spec.json  rows.jsonl  history.jsonl  scores.npz  gallery.npz
                                     classifier.safetensors  answer_key.npz
    ZOO/study/                     the study that trained its models
        models/NAME.safetensors    copies with random names and one time stamp
        truth.json                 truth about each model; only for evaluations

A folder need not exist, since these are only names. Files are read elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from leadapron.documents import dump, read
from leadapron.results.names import ROLES, Role
from leadapron.store import read_json, write_json

__all__ = ["RunFacts", "RunFolder", "StudyFolder", "ZooFolder"]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """Settings and inputs of a run: its spec.json.

    Args:
        role: its role in the pair of models.
        twin: key of the twin; None for a twin.
        spec: its settings, fully expanded.
        cohort: fingerprint of the films.
        outside: SHA-256 of external code and files, by their description.
    """

    SCHEMA: ClassVar[int] = 1

    role: Role
    twin: str | None
    spec: Mapping[str, Any]
    cohort: str
    outside: Mapping[str, str]


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, named by its role and its key."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's own name: ROLE-KEY."""
        return self.path.name

    @property
    def role(self) -> str:
        """The first part of the name."""
        return self.name.partition("-")[0]

    @property
    def key(self) -> str:
        """The second part of the name, 12 hex digits."""
        return self.name.partition("-")[2]

    @property
    def spec(self) -> Path:
        """Its settings and inputs; see `RunFacts`."""
        return self.path / "spec.json"

    @property
    def rows(self) -> Path:
        """Its results. They are written last, so a run that has them is finished."""
        return self.path / "rows.jsonl"

    @property
    def finished(self) -> bool:
        """Whether its results exist."""
        return self.rows.is_file()

    @property
    def history(self) -> Path:
        """Its epochs, one per line."""
        return self.path / "history.jsonl"

    @property
    def scores(self) -> Path:
        """Labels and probabilities of the test films."""
        return self.path / "scores.npz"

    @property
    def gallery(self) -> Path:
        """Films and maps that the report shows."""
        return self.path / "gallery.npz"

    @property
    def classifier(self) -> Path:
        """The trained weights."""
        return self.path / "classifier.safetensors"

    @property
    def checkpoint(self) -> Path:
        """The state of an unfinished training."""
        return self.path / "checkpoint.pt"

    @property
    def answer_key(self) -> Path:
        """The truth about the poisoned films, which is stored nowhere else."""
        return self.path / "answer_key.npz"

    def sibling(self, role: Role, key: str) -> RunFolder:
        """Return the folder of another run of the same study, such as the clean twin."""
        return RunFolder(self.path.parent / f"{role}-{key}")

    def write_facts(self, facts: RunFacts) -> None:
        """Write spec.json.

        Raises:
            StoreError: it can't be written.
        """
        write_json(self.spec, dump(facts))

    def facts(self) -> RunFacts:
        """Return its settings and inputs.

        Raises:
            StoreError: spec.json can't be read, or wasn't written by a study of this version.
        """
        return read(RunFacts, json.dumps(read_json(self.spec)), str(self.spec))


@dataclass(frozen=True)
class StudyFolder:
    """The folder of `leadapron study --out`."""

    path: Path

    @property
    def settings(self) -> Path:
        """The study's requested settings."""
        return self.path / "study.yaml"

    @property
    def manifest(self) -> Path:
        """Versions, machine, the cohorts' facts, the planned runs."""
        return self.path / "manifest.json"

    @property
    def rows(self) -> Path:
        """The rows of all its runs, written last."""
        return self.path / "rows.jsonl"

    @property
    def report(self) -> Path:
        """The page."""
        return self.path / "report.html"

    def run(self, name: str) -> RunFolder:
        """Return the folder of a run by its name, ROLE-KEY."""
        return RunFolder(self.path / "runs" / name)

    def runs(self) -> list[RunFolder]:
        """Return the folders of all started runs, backdoored ones first, by name."""
        paths = (path for role in ROLES for path in (self.path / "runs").glob(f"{role}-*"))
        return [RunFolder(path) for path in sorted(paths) if path.is_dir()]


@dataclass(frozen=True)
class ZooFolder:
    """The folder of `leadapron zoo --out`."""

    path: Path

    @property
    def study(self) -> StudyFolder:
        """The study that trained its models."""
        return StudyFolder(self.path / "study")

    @property
    def models(self) -> Path:
        """The folder of the models for methods."""
        return self.path / "models"

    @property
    def truth(self) -> Path:
        """The truth about each model. It is written when all are trained."""
        return self.path / "truth.json"

    @property
    def finished(self) -> bool:
        """Whether all its models exist."""
        return self.truth.is_file()

    def model(self, name: str) -> Path:
        """Return a model's file."""
        return self.models / name
