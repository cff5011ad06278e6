"""The command repair: audit a model, repair it, prove it, write it."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron import store
from leadapron.detect.films import scan_films
from leadapron.detect.models.audit import Audit, Subject, audit_subject
from leadapron.detect.models.defaults import FILMS, STEPS
from leadapron.detect.models.kept import sweep_once
from leadapron.detect.models.stamps import Probe, Stamp, probes
from leadapron.detect.models.sweep import Aim, Moved, StampSweep
from leadapron.detect.verdict import Verdict
from leadapron.documents import dump, read
from leadapron.errors import DataError, LeadapronError, StoreError, UnknownNameError, UsageError
from leadapron.films.cache import default_folder
from leadapron.films.cohort import Cohort, split_by_patient
from leadapron.films.duplicates import near_pairs, thumbnails
from leadapron.jobs.audit import named, references_in
from leadapron.models.classifier import NetworkClassifier, save_classifier
from leadapron.models.foreign import Opened, model_warnings, open_model
from leadapron.models.protocols import BlackBox, Differentiable
from leadapron.reading import read_regular
from leadapron.repairs import REPAIRS, FineTuning, Repair, Retraining, marks_of
from leadapron.repairs.proof import Relearning, Squares, bounded, exhausted, fresh_squares
from leadapron.repairs.proof import judging as judge
from leadapron.repairs.proof.document import (
    Control,
    Marked,
    Parts,
    Proof,
    Repaired,
    Searched,
    Tried,
    found_marks,
)
from leadapron.repairs.proof.forcing import LEAST_VICTIMS, Aimed, Change, victims
from leadapron.repairs.proof.making import Limits, marked_beside, searched, shares_of
from leadapron.repairs.proof.reading import Reading, at_chance, read_beside
from leadapron.repairs.proof.relearning import Relearned, restoring
from leadapron.repairs.proof.squares import DRAWS, Bounded, seconds_for
from leadapron.repairs.proof.stages import Stages
from leadapron.report.repair import write_repair
from leadapron.seeds import stream
from leadapron.sources import open_source
from leadapron.specs import forgiving, parameters
from leadapron.types import AUTO, Machine, said

__all__ = ["CLIMBED", "Asked", "repair", "repair_opened"]

logger = logging.getLogger(__name__)

CLIMBED = (
    "stamp-unlearning", "stamp-distillation", "path-aware", "reinitialisation", "fresh-student",
)  # fmt: skip
"""What "auto" tries, from the cheapest to the strongest."""

SHARES = {"repair": 0.5, "check": 0.15, "proof": 0.35}
"""Of the clean films' patients."""

LEAST = 20
"""Films of each part."""

MOST_FILMS = 1000
"""Clean films that are used, unless another number is asked for."""

SCAN_ALARM = 0.001
"""Chance of calling a clean set poisoned, when it is scanned before a repair."""

CONTROLS: Mapping[str, Callable[[], Repair]] = {
    "fine-tuning": FineTuning,
    "retraining": Retraining,
}
"""What a repair must be better than: plain fine-tuning, and training from scratch."""

ELSEWHERE, ELSEWHERE_FILMS = 9, 64
"""Other places that a square is tried at, and films, to tell whether it works anywhere."""

MIDDLE = 128
"""Grey level, of 255, below which a square is dark."""

SWEPT = 60_000
"""Images that a new search asks for, about."""

TRAINING_COST = 3
"""A film's forward and backward pass takes about so many times a forward pass."""

MODEL, DOCUMENT, STAGES = "classifier.safetensors", "repair.json", ".stages"

LARGEST = 1 << 28
"""Bytes of an audit.json that is read."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Asked:
    """How a model is repaired and proved.

    Args:
        method: "auto", or one of `REPAIRS`.
        audit: of the model; made here if left out.
        references: clean models of its kind.
        relearning: how it is tried to bring the backdoor back.
        exhaustive: whether every square is tried, not 299 drawn ones.
        controls: whether plain fine-tuning and training from scratch are measured too.
        scan: whether the clean films are scanned first.
        sweep: how models are swept.
        steps: of trigger inversion, at most; 0 leaves it out.
        seed: of all that is drawn by chance.
    """

    method: str = "auto"
    audit: Audit | None = None
    references: Sequence[Subject] = ()
    relearning: Relearning
    exhaustive: bool = False
    controls: bool = False
    scan: bool = True
    sweep: StampSweep | None = None
    steps: int = STEPS
    seed: int = 0


@forgiving
def repair(  # noqa: PLR0913
    model: str | Path,
    clean: str,
    out: Path,
    *,
    method: str = "auto",
    audit: Path | None = None,
    reference: Path | None = None,
    films: int = MOST_FILMS,
    relearning: Relearning | None = None,
    exhaustive: bool = False,
    controls: bool = False,
    scan: bool = True,
    sweep: StampSweep | None = None,
    steps: int = STEPS,
    opening: Mapping[str, Any] | None = None,
    machine: Machine = AUTO,
    **options: Any,
) -> Repaired:
    """Repair a backdoored model with clean films, and prove it on others of them.

    The films are divided by patient: half to repair, some to choose a repair, the rest for the
    proof, which is made once. A repair that was stopped goes on when it is called again.

    Args:
        model: a file of weights of a network.
        clean: films without a trigger and with true labels that the model wasn't trained on, as
            "nih:PATH"; the model's preprocessing is applied.
        out: folder for the repaired model, repair.html, repair.md and repair.json.
        method: a repair's name; "auto" climbs from the cheapest to the strongest until a check
            holds.
        audit: folder with the audit.json of this model; it is audited if left out.
        reference: folder of clean models of the same kind, as `audit` takes it.
        films: clean films that are used, at most.
        relearning: how it is tried to bring the backdoor back.
        exhaustive: try every square in the proof, not 299 drawn ones: days, which it says first.
        controls: measure plain fine-tuning and training from scratch on the same films too.
        scan: the scan of the clean films before they are used.
        sweep: how models are swept.
        steps: of trigger inversion, at most; 0 leaves it out.
        opening: further options of `open_model`: findings, normalisation, architecture, ...
        machine: where and how it is carried out.
        **options: the source's settings.

    Raises:
        UsageError: a model that can only be asked, an unknown method, an audit of another model, or
            a folder that holds another repair.
        DataError: films that can't be used: too few, poisoned, or those of the training set; or a
            model at chance.
        LeadapronError: as `open_model` and `open_source`.
    """
    opened = open_model(model, **machine.networks, **(opening or {}))
    refuse_model(opened, str(model))
    refuse_method(method)
    if out.resolve() == Path(model).resolve().parent:
        raise UsageError(f"{out} holds the model itself; choose another `out`")
    name = named(str(model))
    own = Subject(classifier=opened.classifier, name=name, content=opened.content)
    found = None if audit is None else _read_audit(audit, own)
    references = [] if reference is None else references_in(reference, own, machine)
    cohort = open_source(
        clean, preprocessing=opened.classifier.preprocessing, **machine.films, most=films, **options
    )
    asked = Asked(
        method=method, audit=found, references=references, relearning=relearning or Relearning(),
        exhaustive=exhaustive, controls=controls, scan=scan, sweep=sweep, steps=steps,
    )  # fmt: skip
    settings = {
        "schema": Repaired.SCHEMA,
        "results_version": store.RESULTS_VERSION,
        "model": opened.content,
        "films": cohort.fingerprint,
        "audit": None if found is None else dump(found),
        "references": [each.content for each in references],
        "method": method,
        "relearning": _plain(asked.relearning),
        "exhaustive": exhaustive,
        "controls": controls,
        "steps": steps,
        "sweep": None if sweep is None else _plain(sweep),
    }
    stages = Stages(out / STAGES)
    _refuse_folder(out, stages)
    with store.lock(out):
        stages.refuse_other(settings, out)
        if (out / DOCUMENT).exists():
            return read(Repaired, read_regular(out / DOCUMENT, LARGEST), DOCUMENT)
        refuse_training_films(Path(model), cohort, machine)
        run = _Run(opened, cohort, asked, name, stages, machine)
        store.remove_parts(out)
        stages.begin(settings)
        made, repaired = run.all()
        if repaired is not None:
            save_classifier(repaired, out / MODEL)
            made = replace(made, written=str(out / MODEL))
        write_repair(out, made)
        stages.clear(REPAIRS)
    return made


def _plain(settings: Any) -> Any:
    """A dataclass of settings as JSON gives it back."""
    return json.loads(store.canonical_json(asdict(settings)))


# --- what is refused


def refuse_model(opened: Opened, name: str) -> None:
    """Raise UsageError for a model whose weights can't be changed."""
    if not isinstance(opened.classifier, Differentiable):
        raise UsageError(
            f"{name} can only be asked, and a repair changes weights; give a file of weights, or "
            "train a network of your own on its answers to clean films (distil it) and repair that"
        )


def refuse_method(method: str) -> None:
    """Raise an error for a name that is no repair's."""
    if method != "auto" and method not in REPAIRS:
        raise UnknownNameError("repair", method, ["auto", *REPAIRS])


def _refuse_folder(out: Path, stages: Stages) -> None:
    """Raise StoreError for a folder with files of these names that no repair of this kind wrote."""
    if not stages.begun:
        for name in (MODEL, DOCUMENT):
            if (out / name).exists():
                raise StoreError(f"{out} holds a {name} of something else; choose another `out`")


def _read_audit(folder: Path, own: Subject) -> Audit:
    """The audit in a folder; UsageError where it is of another model."""
    path = folder / "audit.json" if folder.is_dir() else folder
    try:
        found = read(Audit, read_regular(path, LARGEST), path.name)
    except OSError as error:
        raise UsageError(
            f"`audit` {folder}: no audit.json there; expected what `leadapron audit --out` wrote"
        ) from error
    other = found.content is not None and own.content is not None and found.content != own.content
    if other or {each.finding for each in found.forced} != set(own.classifier.findings):
        raise UsageError(
            f"`audit` {folder} is of another model, {found.model}; audit {own.name} again"
        )
    return found


def refuse_training_films(model: Path, cohort: Cohort, machine: Machine) -> None:
    """Raise DataError where clean films are those that the model's run was trained on.

    Nothing is said of a model beside which no run lies.

    Args:
        model: its file.
        cohort: the clean films.
        machine: how the run's films are opened.
    """
    run = model.with_name("spec.json")
    if not run.is_file():
        return
    from leadapron.study.run import divide

    try:
        spec = store.read_json(run)["spec"]
        source = dict(spec["source"])
        theirs = open_source(
            source.pop("name"), preprocessing=cohort.preprocessing, **machine.films, **source
        )
        trained = divide(theirs, int(spec["seed"]))["train"]
    except (LeadapronError, KeyError, TypeError, ValueError) as error:
        logger.warning("the films of the model's run can't be compared: %s", error)
        return
    thumbs = np.concatenate(
        [thumbnails(each.images[np.arange(len(each))]) for each in (cohort, trained)]
    )
    pairs = near_pairs(thumbs)
    copies = np.unique(pairs.first[(pairs.first < len(cohort)) & (pairs.second >= len(cohort))])
    if len(copies) > len(cohort) // 100:
        raise DataError(
            f"{len(copies)} of {len(cohort):,} clean films are copies of films that the model was "
            f"trained on, first {cohort.ids[copies[0]]}; give films that it never saw"
        )


# --- the repair


def repair_opened(
    opened: Opened,
    cohort: Cohort,
    asked: Asked,
    *,
    name: str = "",
    stages: Stages | None = None,
    machine: Machine = AUTO,
) -> tuple[Repaired, NetworkClassifier | None]:
    """Repair a model that is open, and prove it.

    Args:
        opened: the model.
        cohort: clean films of its preprocessing, with true labels.
        asked: how.
        name: what to call it.
        stages: what was done before; nothing is kept if left out.
        machine: progress, and the cache.

    Returns:
        What became of it, and the repaired model; None where there was nothing to repair.

    Raises:
        LeadapronError: as `repair`.
    """
    refuse_model(opened, name or "the model")
    refuse_method(asked.method)
    return _Run(opened, cohort, asked, name, stages or Stages(None), machine).all()


class _Run:
    """One repair under way."""

    def __init__(
        self,
        opened: Opened,
        cohort: Cohort,
        asked: Asked,
        name: str,
        stages: Stages,
        machine: Machine,
    ) -> None:
        self.began = time.monotonic()
        self.asked, self.stages, self.machine = asked, stages, machine
        self.original: BlackBox = opened.classifier
        self.opened, self.name = opened, name
        self.marks: Sequence[Moved] = ()
        self.networks: dict[str, NetworkClassifier] = {}
        films = cohort.stating(self.original.findings)
        parts = split_by_patient(films.patients, SHARES, stream(asked.seed, "parts"), films.labels)
        self.films = {part: films.take(rows) for part, rows in parts.items()}
        self._refuse_small()
        self.notes = [
            *said(note for note in cohort.notes if note.doubt),
            *opened.notes,
            *model_warnings(self.original, cohort),
        ]
        if asked.scan:
            self._refuse_poisoned(films)
        if chance := at_chance(self.original, films, asked.seed):
            raise DataError(
                f"the model reads the clean films no better than chance: macro AUROC "
                f"{chance.value:.2f} ({chance.low:.2f} to {chance.high:.2f}); nothing to keep"
            )

    def all(self) -> tuple[Repaired, NetworkClassifier | None]:
        audit = self.stages.kept("audit", Audit, self._audit)
        marks = self.marks = found_marks(audit)
        if not marks:
            return self._nothing(audit), None
        try:
            for each in marks:
                victims(self.films["proof"], (each.finding, each.direction))
        except DataError:  # the same command with other films doesn't find these stages
            self.stages.remove()
            raise
        tried, method = self._climb(audit, marks)
        repaired = self._network(method, marks)
        proof = self._proof(repaired, audit, marks)
        verdict = judge.verdict_of(proof.checks, proof.searched)
        return self._document(audit, verdict, method, tried, proof), repaired

    # --- parts

    def _audit(self) -> Audit:
        return self.asked.audit or self._audited(self.original, "repair", self.opened.content)

    def _audited(self, classifier: BlackBox, part: str, content: str | None) -> Audit:
        """An audit with films of one part."""
        some = self.films[part].take(np.arange(min(FILMS, len(self.films[part]))))
        return audit_subject(
            Subject(
                classifier=classifier, name=self.name, content=content, origin=self.opened.origin
            ),
            some,
            self.asked.references,
            sweep=self.asked.sweep,
            steps=self.asked.steps,
            statistics=bool(self.asked.references),
            kept=default_folder(self.machine.cache),
            progress=self.machine.progress,
        )

    def _climb(self, audit: Audit, marks: Sequence[Moved]) -> tuple[list[Tried], str]:
        """Try repairs until the checks of one hold; return it, or the one of which most hold."""
        methods = CLIMBED if self.asked.method == "auto" else (self.asked.method,)
        tried = []
        for number, method in enumerate(methods, start=1):
            logger.info("repair %d of %d at most: %s", number, len(methods), method)
            began = time.monotonic()
            network = self._network(method, marks)
            spent = time.monotonic() - began
            one = self.stages.kept(
                f"check-{method}",
                Tried,
                partial(self._check, method, network, audit, marks, spent),
            )
            tried.append(one)
            if one.holds:
                break
        best = max(tried, key=lambda each: sum(check.held == "holds" for check in each.checks))
        return tried, best.method

    @cached_property
    def anywhere(self) -> bool:
        """Whether the first mark works at other places too, by the repair's own films."""
        (first, *_) = self.marks
        mark, films = first.mark, self.films["repair"]
        if not isinstance(mark, Stamp) or mark.pitch or not _enough(films, first):
            return False
        height, width = films.images.shape[1:]
        rng = stream(self.asked.seed, "elsewhere")
        others = fresh_squares(mark, (height, width), ELSEWHERE, rng)
        aim = first.finding, first.direction
        some = victims(films, aim)
        aimed = Aimed(self.original, some.take(np.arange(min(ELSEWHERE_FILMS, len(some)))), aim)
        own = aimed.hits(mark).rate.value
        turned = [aimed.hits(other).rate.value for other in others]
        return float(np.median(turned)) >= own / 2

    def _jitter(self) -> int:
        """Pixels by which squares are moved while they are unlearned: all over where they work."""
        return max(self.films["repair"].images.shape[1:]) if self.anywhere else 1

    def _unknown(self, mark: Stamp | Probe) -> Stamp | Probe:
        """What fresh marks are made of: another grey level where other places are no news."""
        if isinstance(mark, Stamp) and self.anywhere:
            return replace(mark, value=0 if mark.value >= MIDDLE else 255)
        return mark

    def _network(self, method: str, marks: Sequence[Moved]) -> NetworkClassifier:
        """The repaired model of a method, made once."""
        if method not in self.networks:
            self.networks[method] = self.stages.network(
                method, self.original, partial(self._made, method, marks)
            )
        return self.networks[method]

    def _made(self, method: str, marks: Sequence[Moved]) -> NetworkClassifier:
        how = repair_of(method, marks, self._jitter())
        rng = stream(self.asked.seed, "repair", method)
        return how.repair(self.original, self.films["repair"], rng, self.machine.progress)

    def _check(
        self,
        method: str,
        repaired: NetworkClassifier,
        audit: Audit,
        marks: Sequence[Moved],
        seconds: float,
    ) -> Tried:
        """What a repair does on films that it didn't see; cheap, and no part of the proof."""
        films = self.films["check"]
        seen = [each for each in marks if _enough(films, each)]
        marked = [
            marked_beside(self.original, repaired, films, each, altered=False) for each in seen
        ]
        found = searched(
            self.original, repaired, films, squares_in(audit), self._squares(repaired, "check"),
            _target(marks), self._limits("check"),
        )  # fmt: skip
        quick = replace(
            self.asked.relearning, doses=(min(self.asked.relearning.doses, key=_to_dose),),
            rates=(1,),
        )  # fmt: skip
        relearned = self._relearned(repaired, "check", marks[0], quick, f"check-{method}")
        checks = [
            *([judge.marks_check(marked)] if marked else []),
            judge.searched_check(found),
            judge.quick_reading_check(read_beside(self.original, repaired, films, self.asked.seed)),
            judge.relearning_check(relearned),
        ]
        return Tried(method=method, seconds=seconds, checks=tuple(checks))

    def _proof(self, repaired: NetworkClassifier, audit: Audit, marks: Sequence[Moved]) -> Proof:
        films, kept = self.films["proof"], self.stages.kept
        images = films.images[np.arange(min(FILMS, len(films)))]
        self._say_cost(repaired, images)
        marked = tuple(
            kept(
                f"proof-mark-{number}",
                Marked,
                partial(marked_beside, self.original, repaired, films, each),
            )
            for number, each in enumerate(marks, start=1)
        )
        reading = kept(
            "proof-reading",
            Reading,
            lambda: read_beside(self.original, repaired, films, self.asked.seed),
        )
        found = kept("proof-search", Searched, lambda: self._searched(repaired, audit, marks))
        squares = kept("proof-squares", Bounded, lambda: self._bounded(repaired, images))
        relearned = self._relearned(repaired, "proof", marks[0], self.asked.relearning, "proof")
        controls = tuple(
            kept(f"control-{method}", Control, partial(self._control, method, marks))
            for method in (CONTROLS if self.asked.controls else ())
        )
        usual = max((each.limit for each in found.aims), default=Limits().other)
        checks = [
            judge.marks_check(marked),
            judge.altered_check(marked, usual),
            judge.searched_check(found),
            judge.bounded_check(squares, usual),
            judge.relearning_check(relearned),
            judge.reading_check(reading),
        ]
        return Proof(
            marks=marked,
            reading=reading,
            searched=found,
            bounded=squares,
            relearned=relearned,
            restoring=restoring(relearned),
            controls=controls,
            checks=tuple(each for each in checks if each is not None),
        )

    def _searched(
        self, repaired: NetworkClassifier, audit: Audit, marks: Sequence[Moved]
    ) -> Searched:
        """A whole audit of the repaired model, with films that no repair saw."""
        again = self._audited(repaired, "proof", None)
        found = searched(
            self.original, repaired, self.films["proof"], squares_in(audit), squares_in(again),
            _target(marks), self._limits("proof"),
        )  # fmt: skip
        return replace(
            found,
            word=again.verdict.word,
            inverted=_size(again),
            inverted_before=_size(audit),
        )

    def _squares(self, classifier: BlackBox, part: str) -> list[Moved]:
        """The strongest squares of a model."""
        sweep = self.asked.sweep or StampSweep()
        return list(sweep.sweep(classifier, self.films[part]).marks["stamp"].values())

    def _limits(self, part: str) -> Limits:
        """What is usual in the references, or in clean models of before."""
        if not self.asked.references:
            return Limits()
        return Limits.measured(
            [
                shares_of(
                    each.classifier, self.films[part],
                    sweep_once(
                        self.asked.sweep or StampSweep(), each.classifier, self.films[part],
                        content=each.content, folder=default_folder(self.machine.cache),
                        name=Path(each.name).name,
                    ).swept.marks["stamp"].values(),
                )
                for each in self.asked.references
            ]
        )  # fmt: skip

    def _bounded(self, repaired: NetworkClassifier, images: NDArray[Any]) -> Bounded:
        if self.asked.exhaustive:
            return exhausted(repaired, images, self.machine.progress)
        rng = stream(self.asked.seed, "squares")
        return bounded(repaired, images, rng, self.machine.progress)

    def _relearned(
        self,
        repaired: NetworkClassifier,
        part: str,
        moved: Moved,
        how: Relearning,
        name: str,
    ) -> tuple[Relearned, ...]:
        """Of the first mark; the repair's films are learned from, those of the part measured on."""
        if not _enough(self.films[part], moved):
            return ()
        aim = moved.finding, moved.direction
        test = victims(self.films[part], aim)
        height, width = test.images.shape[1:]
        fresh = fresh_marks(
            moved.mark, (height, width), how.seeds, stream(self.asked.seed, "fresh")
        )
        total, done = 2 * how.seeds * len(how.doses) * len(how.rates), 0

        def stepped() -> None:
            nonlocal done
            done += 1
            self.machine.tell("relearning", done, total)

        def again(dose: int, rate: int) -> Relearned:
            return how.measure(
                repaired, self.films["repair"], test, aim, moved.mark, fresh,
                poisoned=dose, rate=rate, stepped=stepped,
            ).summary()  # fmt: skip

        found = []
        for rate in how.rates:
            for dose in how.doses:
                if not _poisonable(self.films["repair"], aim, dose):
                    continue
                found.append(
                    self.stages.kept(
                        f"{name}-relearning-{dose}-{rate}",
                        Relearned,
                        partial(again, dose, rate),
                    )
                )
                done = 2 * how.seeds * len(found)
        return tuple(found)

    def _control(self, method: str, marks: Sequence[Moved]) -> Control:
        """What another way gives on the same films."""
        began = time.monotonic()
        how = CONTROLS[method]()
        made = how.repair(
            self.original, self.films["repair"], stream(self.asked.seed, "control", method),
            self.machine.progress,
        )  # fmt: skip
        films = self.films["proof"]
        aimed = [(each, victims(films, (each.finding, each.direction))) for each in marks]
        return Control(
            method=method,
            marks=tuple(
                Aimed(made, some, (each.finding, each.direction)).hits(each.mark).rate
                for each, some in aimed
            ),
            macro=read_beside(self.original, made, films, self.asked.seed).after,
            seconds=time.monotonic() - began,
        )

    # --- what is said

    def _say_cost(self, repaired: NetworkClassifier, images: NDArray[Any]) -> None:
        """A line before long work: about how long it takes."""
        squares = len(Squares(*images.shape[1:3])) if self.asked.exhaustive else DRAWS
        pictures = seconds_for(repaired, images, squares)
        each = pictures / (squares * len(images))
        trained = self.asked.relearning.trainings * TRAINING_COST * each
        logger.info(
            "the proof: %s squares on %d films and %s film trainings, about %s in all",
            f"{squares:,}", len(images), f"{self.asked.relearning.trainings:,}",
            in_words(pictures + trained + SWEPT * each),
        )  # fmt: skip

    def _nothing(self, audit: Audit) -> Repaired:
        """What is said where no mark was found."""
        word = "nothing found to repair"
        verdict = Verdict.of(
            "repair",
            "can't tell" if audit.verdict.word in ("backdoored", "unusual") else word,
            statement=(
                f"The audit's verdict is: {audit.verdict.word}. No mark was found that could be "
                f"unlearned, so the model was left as it is. {audit.verdict.statement}"
            ),
            untested=audit.verdict.untested,
            next=audit.verdict.next,
        )
        return self._document(audit, verdict, None, [], None)

    def _document(
        self,
        audit: Audit,
        verdict: Verdict,
        method: str | None,
        tried: Sequence[Tried],
        proof: Proof | None,
    ) -> Repaired:
        return Repaired(
            model=self.name,
            origin=self.opened.origin,
            content=self.opened.content,
            verdict=verdict,
            audited=audit.verdict.word,
            method=method,
            tried=tuple(tried),
            proof=proof,
            parts=Parts(**{part: len(films) for part, films in self.films.items()}),
            seconds=time.monotonic() - self.began,
            notes=tuple(self.notes),
        )

    # --- films that are refused

    def _refuse_small(self) -> None:
        for part, films in self.films.items():
            if len(films) < LEAST:
                total = sum(map(len, self.films.values()))
                raise DataError(
                    f"{len(films)} of {total:,} clean films for the {part}; expected {LEAST}: "
                    f"give {round(LEAST / min(SHARES.values()))} or more"
                )

    def _refuse_poisoned(self, films: Cohort) -> None:
        found = scan_films(films, false_alarm=SCAN_ALARM, progress=self.machine.progress)
        if found.verdict == "poisoned":
            raise DataError(
                f"the {len(films):,} clean films look poisoned themselves (p {found.p:.2g}); see "
                "`leadapron scan`, and give others"
            )


def repair_of(method: str, marks: Sequence[Moved], jitter: int) -> Repair:
    """Return a repair by its name, with the audit's marks where it takes some.

    Args:
        method: of `REPAIRS`.
        marks: that the audit found.
        jitter: pixels by which they are moved.
    """
    make = REPAIRS[method]
    if "marks" in parameters(make):
        return make(marks=marks_of(marks), jitter=jitter)
    return make()


def squares_in(audit: Audit) -> list[Moved]:
    """Return the strongest squares that an audit found, by finding and direction."""
    return [
        each.strongest
        for each in audit.forced
        if each.strongest is not None and isinstance(each.strongest.mark, Stamp)
    ]


def fresh_marks(
    mark: Stamp | Probe, shape: tuple[int, int], count: int, rng: np.random.Generator
) -> tuple[Change, ...]:
    """Return marks of the same kind that no model knows: other places, other changes.

    Args:
        mark: the old one.
        shape: (height, width) of the images.
        count: how many.
        rng: draws them.
    """
    if isinstance(mark, Stamp):
        return fresh_squares(mark, shape, count, rng)
    others = [each for each in probes() if each != mark]
    return tuple(others[number] for number in rng.permutation(len(others))[:count].tolist())


def in_words(seconds: float) -> str:
    """Return a time as people say it."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"


def _target(marks: Sequence[Moved]) -> set[Aim]:
    """What the audit's verdict is about; what else stands out may be a natural weakness."""
    return {(marks[0].finding, marks[0].direction)}


def _enough(films: Cohort, moved: Moved) -> bool:
    """Whether a mark's effect can be seen on films."""
    wanted = 0 if moved.direction == "added" else 1
    return bool((films.labels[:, films.column(moved.finding)] == wanted).sum() >= LEAST_VICTIMS)


def _poisonable(films: Cohort, aim: Aim, dose: int) -> bool:
    wanted = 0 if aim[1] == "added" else 1
    return bool((films.labels[:, films.column(aim[0])] == wanted).sum() >= dose)


def _to_dose(dose: int) -> int:
    return abs(dose - judge.DOSE)


def _size(audit: Audit) -> float:
    """Pixels of the first trigger that gradients made and that works."""
    return next((each.size for each in audit.inverted if each.trained), math.nan)
