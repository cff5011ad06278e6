"""What all result objects of a film share: identities, words, region and times."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from highdicom import AlgorithmIdentificationSequence
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from leadapron import __version__
from leadapron.detect.inputs.decision import Decision
from leadapron.detect.verdict import ScreenWord
from leadapron.films.preprocessing import Preprocessing
from leadapron.jobs.screen import OpenGate
from leadapron.service.answers import RESEARCH, FilmAnswer
from leadapron.service.codes import SCHEME, SCHEME_NAME
from leadapron.service.originals import Original
from leadapron.service.uids import derived_uid
from leadapron.types import Place

__all__ = ["Installation", "Result"]

MAKER, TOOL = "leadapron", "leadapron gate"

SERIES = {"sr": 9301, "gsps": 9302, "sc": 9303, "seg": 9304}
"""Series numbers, above those of usual modalities."""

STATUS = "UNVERIFIED, PRELIMINARY"

DAY, TIME = "%Y%m%d", "%H%M%S"

CREATED = {
    "InstanceCreationDate": DAY,
    "InstanceCreationTime": TIME,
    "ContentDate": DAY,
    "ContentTime": TIME,
    "PresentationCreationDate": DAY,
    "PresentationCreationTime": TIME,
    "DateOfSecondaryCapture": DAY,
    "TimeOfSecondaryCapture": TIME,
}
"""Elements that highdicom sets to the present."""


@dataclass(frozen=True, kw_only=True)
class Installation:
    """What made a result.

    Args:
        gate: SHA-256 of the gate's file.
        model: SHA-256 of the model.
        preprocessing: how the model's input is made from a film.
        scores: names of the gate's scores.
        false_alarm: promised rate of false alarms.
        device: UID of this installation.
        version: of leadapron.
    """

    gate: str
    model: str
    preprocessing: Preprocessing
    scores: tuple[str, ...]
    false_alarm: float
    device: str
    version: str = __version__

    @classmethod
    def of(cls, opened: OpenGate, gate: str, device: str) -> Installation:
        """Return the installation of a gate.

        Args:
            opened: the gate and its model.
            gate: SHA-256 of the gate's file.
            device: UID of this installation, as of its spool.
        """
        stored = opened.stored
        return cls(
            gate=gate,
            model=stored.model.sha256,
            preprocessing=stored.model.preprocessing,
            scores=tuple(stored.gate.weights),
            false_alarm=stored.gate.false_alarm,
            device=device,
        )

    @property
    def parameters(self) -> dict[str, str]:
        """Parameters of the algorithm, by name."""
        return {
            "gate SHA-256": self.gate,
            "model SHA-256": self.model,
            "scores": ", ".join(self.scores),
            "false alarms promised": f"at most {self.false_alarm:g} of clean films",
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """A judged film, ready to be written as objects.

    Args:
        original: the film.
        answer: the answer on it.
        decision: the answer's decision.
        about: gate, model and installation.
        region: the evidence region in pixels of the film; None without one, or if it lies in the
            padding.
        image: (h, w) the model's input, if known.
    """

    original: Original
    answer: FilmAnswer
    decision: Decision
    about: Installation
    region: Place | None
    image: NDArray[Any] | None

    @classmethod
    def of(
        cls,
        original: Original,
        answer: FilmAnswer,
        about: Installation,
        image: NDArray[Any] | None = None,
    ) -> Result:
        """Return a result; the arguments are as in `result_objects`."""
        decision = answer.decision
        assert decision is not None
        region = decision.region
        if region is not None:
            region = about.preprocessing.on_film(
                region, original.decoded, (original.rows, original.columns)
            )
        return cls(
            original=original, answer=answer, decision=decision, about=about, region=region,
            image=image,
        )  # fmt: skip

    @property
    def word(self) -> ScreenWord:
        """The verdict's word."""
        return self.decision.verdict

    @property
    def judged(self) -> datetime:
        """When the film was judged, in local time, as DICOM states times."""
        assert self.answer.judged is not None
        return datetime.fromisoformat(self.answer.judged).astimezone()

    @property
    def lines(self) -> list[str]:
        """What a reader must know, in short lines."""
        p = self.decision.p
        said = f"leadapron gate: {self.word}" + ("" if p is None else f" (p {p:.3g})")
        reason = self.decision.reason
        made = f"gate {self.about.gate[:12]}, model {self.about.model[:12]}"
        return [said, *([reason] if reason else []), STATUS, RESEARCH, made]

    def uid(self, kind: str, part: str = "object") -> str:
        """Return a UID that depends on film, gate, kind and part alone."""
        return derived_uid(self.original.uid, self.about.gate, kind, part)

    def naming(self, kind: str, words: str) -> dict[str, Any]:
        """Return the arguments that all constructors of highdicom take.

        Args:
            kind: of the object.
            words: what it is, for the series' description.
        """
        return {
            "series_instance_uid": self.uid(kind, "series"),
            "series_number": SERIES[kind],
            "sop_instance_uid": self.uid(kind),
            "instance_number": 1,
            "manufacturer": MAKER,
            "manufacturer_model_name": TOOL,
            "software_versions": self.about.version,
            "device_serial_number": self.about.device,
            "series_description": f"Research use only: {words}",
            "coding_schemes": [CodingSchemeIdentificationItem(SCHEME, name=SCHEME_NAME)],
        }

    def algorithm(self) -> AlgorithmIdentificationSequence:
        """Return the identification of gate and model."""
        return AlgorithmIdentificationSequence(
            name=TOOL,
            family=codes.DCM.ArtificialIntelligence,
            version=self.about.version,
            source=MAKER,
            parameters=self.about.parameters,
        )

    def finished(self, made: Dataset) -> Dataset:
        """Return an object with patient and study, and the verdict's time for the present one.

        highdicom also names the X-ray machine and itself; that is removed.

        Args:
            made: what highdicom made.
        """
        for element in made:
            if element.keyword in CREATED:
                element.value = self.judged.strftime(CREATED[element.keyword])
        made.pop("ContributingEquipmentSequence", None)
        made.update(self.original.patient)
        return made
