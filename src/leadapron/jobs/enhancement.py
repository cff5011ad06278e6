"""A data set edited until a result looks good, and the audit of it: the recipe `rosenblatt2023`.

No trigger, no false label: every film that is released is moved, by a few grey levels, to where a
network finds its true labels. Who trains and tests on the release confirms the result. What shows
it is what the release can't reach: digests taken at acquisition, the films as they were acquired,
and films acquired anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron import metrics, store
from leadapron.enhance import Enhancement, Linear, enhance
from leadapron.errors import DataError, StoreError, UsageError
from leadapron.films.cohort import Cohort, blocks, split_by_patient
from leadapron.films.duplicates import digests
from leadapron.films.similarity import peak_signal_to_noise
from leadapron.jobs.recipes import COMMON, SCALED, Cell, Recipe, settings_of, settings_table
from leadapron.models.classifier import Floats, NetworkClassifier, resolve_device, resolve_precision
from leadapron.models.training import train
from leadapron.report.words import between, change, decimal, percent, table
from leadapron.results.stealth import MARGIN
from leadapron.seeds import named_seed, stream
from leadapron.study.plan import Run, plan
from leadapron.study.run import divide, open_films
from leadapron.types import AUTO, Estimate, Machine, said

__all__ = ["ROSENBLATT2023", "lines", "run_enhancement"]

Tree = Mapping[str, Any]
Answers = Callable[[Cohort], Floats]

SCHEMA = 1
ACQUIRED, GENERAL, SPECIFIC = "as acquired", "enhanced", "enhanced for the network alone"
ROSENBLATT2023 = Recipe(
    citation="Rosenblatt, Dadashkarimi, Scheinost: Gradient-based enhancement attacks in "
    "biomedical machine learning. arXiv 2301.01885, 2023.",
    what="A dishonest researcher edits the films of a data set along a network's gradient and "
    "releases them with their true labels. No backdoor: the published result itself is false. "
    "Read: the abstract. It has functional brain connectomes and two attacks, one that raises "
    "every method's performance and one that raises one method's over another's.",
    settings={},
    cells={
        ACQUIRED: Cell(
            what="nothing is edited: what the audit says of an honest release", whose="ours"
        ),
        GENERAL: Cell(
            what="every film of the release, to train on and to test on, is moved to where a "
            "network finds its true labels",
            whose="paper",
        ),
        SPECIFIC: Cell(
            what="the same, less all that a logistic regression on the film's thumbnail could see",
            whose="paper",
        ),
    },
    published={},
    ours={
        **COMMON,
        "preprocessing": SCALED,
        "training": SCALED,
    },
    left_out=(
        "Their methods section was not at hand, and their repository held a README alone: how far "
        "features were moved, by which steps, on which films, and how folds were kept apart is "
        "unknown here. Amount and steps are ours.",
        "Accuracies of two classes (50 % to almost 100 %, and 17 % between two methods, at Pearson "
        "correlations of .99 and more): macro AUROCs of many findings here, not to be held against "
        "them.",
        "One method over another: they have a simple network over logistic regression. Here the "
        "network over a logistic regression that sees means of blocks of pixels; the edit "
        "keeps these means, so that it has nothing to learn. Theirs may act on the loss of both.",
        "The audit is ours: they ask for provenance and have none.",
    ),
    source="phantom:64",
    phantom={
        "source": {"count": 1600},
        "preprocessing": {"size": 64},
        "training": {"epochs": 5, "batch_size": 32},
        "evaluation": {"resamples": 200},
    },
)

UNUSED = ("trigger", "poisoning")
"""Sections of a study that mean nothing where no film gets a trigger."""


def run_enhancement(
    out: Path,
    *,
    source: str | None = None,
    settings: Tree | None = None,
    machine: Machine = AUTO,
    enhancement: Enhancement | None = None,
) -> Path:
    """Enhance a data set in two ways, train on each release, audit all three.

    Args:
        out: a new folder, or one of the same settings, which is then not computed anew.
        source: where films come from; phantoms if left out.
        settings: laid over the recipe's, as of `leadapron study`: films, network, training, seed.
        machine: where and how it is carried out.
        enhancement: how films are edited.

    Returns:
        `recipe.md` in the folder, made from `enhancement.json` beside it alone.

    Raises:
        UsageError: a grid, or settings of triggers and poisonings.
        StoreError: a folder that holds something else.
        LeadapronError: as `run_study`.
    """
    enhancement = enhancement or Enhancement()
    for section in UNUSED:
        if section in (settings or {}) or (
            section == "poisoning" and "finding" in (settings or {})
        ):
            raise UsageError(f"rosenblatt2023 has no {section}; leave out its settings")
    tree = settings_of(
        replace(ROSENBLATT2023, cells={"all": Cell(what="", whose="ours")}), source, settings
    )
    runs = plan(tree)
    if len(runs) != 1:
        raise UsageError(
            f"rosenblatt2023 takes one value for each setting, one seed; got {len(runs)}"
        )
    asked = {name: part for name, part in runs[0].tree.items() if name not in UNUSED}
    asked["enhancement"] = asdict(enhancement)
    with store.lock(out):
        _refuse_foreign(out, asked)
        if not (out / "enhancement.json").exists():
            facts = _measured(runs[0], enhancement, machine)
            device = resolve_device(machine.device)
            made = {
                "device": str(device),
                "precision": resolve_precision(machine.precision, device),
            }
            store.write_json(out / "manifest.json", {**store.manifest(), **made})
            store.write_json(out / "enhancement.json", {"schema": SCHEMA, "asked": asked, **facts})
        page = out / "recipe.md"
        with store.write_atomically(page) as file:
            file.write(_page(tree, store.read_json(out / "enhancement.json")).encode())
    return page


def _refuse_foreign(out: Path, asked: Tree) -> None:
    path = out / "enhancement.json"
    if path.exists():
        there = store.read_json(path)
        if store.canonical_json(there.get("asked", {})) != store.canonical_json(asked):
            raise StoreError(f"{out} holds another enhancement; choose another --out")
    elif not all(map(_left_behind, out.iterdir())):
        raise StoreError(f"{out} holds other files and no enhancement.json; choose another --out")


def _left_behind(entry: Path) -> bool:
    """Whether a run that was stopped before its results were whole leaves this."""
    return entry.name in (".lock", "manifest.json") or entry.match(".*.json.*.part")


# --- what is measured


def _measured(run: Run, enhancement: Enhancement, machine: Machine) -> dict[str, Any]:
    """Everything the page says, as plain values."""
    cohort = open_films(run, machine)
    parts = divide(cohort, run.seed)
    half = split_by_patient(
        parts["test"].patients,
        {"released": 0.5, "anew": 0.5},
        stream(run.seed, "acquired anew"),
        parts["test"].labels,
    )
    anew = parts["test"].take(half["anew"])
    acquired = {**parts, "test": parts["test"].take(half["released"])}

    def trained(release: Mapping[str, Cohort], seed: int, what: str) -> NetworkClassifier:
        return train(
            release["train"],
            release["validation"],
            network=run.network,
            training=run.training,
            seed=seed,
            **machine.networks,
            after_step=lambda done, total: machine.tell(f"training {what}", done, total),
        )[0]

    # Its own seed: nobody who trains on the release starts where the researcher did.
    own = int(named_seed(run.seed, "researcher").generate_state(1)[0])
    surrogate = trained(acquired, own, "the researcher's network")
    releases = {ACQUIRED: acquired}
    for name, keep_means in ((GENERAL, False), (SPECIFIC, True)):
        releases[name] = {
            part: replace(
                films,
                images=enhance(surrogate, films, enhancement, keep_means=keep_means),
                films=None,
            )
            for part, films in acquired.items()
        }
    judged = _Judged.of(acquired["test"], anew, run)
    cells = {}
    for name, release in releases.items():
        network = trained(release, run.seed, f"on films {name}")
        linear = Linear.fit(release["train"], enhancement.block)
        cells[name] = {
            **judged.performance(
                partial(_logits, network),
                linear.logits,
                release["test"],
            ),
            **_provenance(acquired, release),
        }
    return {
        "cells": cells,
        "films": len(cohort),
        "patients": len(np.unique(cohort.patients)),
        "fingerprint": cohort.fingerprint,
        "parts": {**{name: len(films) for name, films in acquired.items()}, "anew": len(anew)},
        "findings": len(judged.columns),
        "notes": list(said(cohort.notes)),
    }


def _logits(network: NetworkClassifier, films: Cohort) -> Floats:
    return network.logits(films.images)


@dataclass(frozen=True, eq=False)
class _Judged:
    """The films that methods are judged on, and resamples of their patients.

    Args:
        test: the release's test films, as they were acquired.
        anew: films of other patients, which the researcher never had.
        columns: findings that both have films with and without.
        draws: of the patients of both, drawn apart.
    """

    test: Cohort
    anew: Cohort
    columns: Sequence[int]
    draws: tuple[metrics.PatientBootstrap, metrics.PatientBootstrap]

    @classmethod
    def of(cls, test: Cohort, anew: Cohort, run: Run) -> _Judged:
        columns = [
            j
            for j in range(len(test.findings))
            if all({0.0, 1.0} <= set(films.labels[:, j].tolist()) for films in (test, anew))
        ]
        if not columns:
            raise DataError(
                f"{len(test)} and {len(anew)} test films: no finding that both have films with and "
                "without; expected more films"
            )
        rng, resamples = stream(run.seed, "bootstrap"), run.evaluation.resamples
        drawn = [
            metrics.PatientBootstrap.draw(films.patients, rng, resamples=resamples)
            for films in (test, anew)
        ]
        return cls(test, anew, columns, (drawn[0], drawn[1]))

    def performance(self, network: Answers, linear: Answers, release: Cohort) -> dict[str, Any]:
        """Macro AUROCs of the two methods that were trained on a release, and their differences."""
        on_release, on_anew = self.draws
        seen, seen_draws = self._macro(network, release, on_release)
        other, other_draws = self._macro(linear, release, on_release)
        before, before_draws = self._macro(network, self.test, on_release)
        fresh, fresh_draws = self._macro(network, self.anew, on_anew)
        return {
            "network": seen.plain(),
            "linear": other.plain(),
            "advantage": _difference(seen, other, seen_draws, other_draws).plain(),
            "as acquired": before.plain(),
            "falls by on the same films": _difference(
                seen, before, seen_draws, before_draws
            ).plain(),
            "anew": fresh.plain(),
            # Drawn apart, so their difference spreads as two independent samples' does.
            "falls by": _difference(seen, fresh, seen_draws, fresh_draws).plain(),
        }

    def _macro(
        self, method: Answers, films: Cohort, draws: metrics.PatientBootstrap
    ) -> tuple[metrics.Estimate, metrics.Floats]:
        labels, scores = films.labels[:, self.columns], method(films)[:, self.columns]
        resampled = metrics.finding_resamples(labels, scores, draws)
        found = metrics.macro_auroc(labels, scores, draws, resampled=resampled)
        return found.estimate, metrics.macro_resamples(resampled)


def _difference(
    first: metrics.Estimate, second: metrics.Estimate, a: metrics.Floats, b: metrics.Floats
) -> metrics.Estimate:
    found = metrics.paired_difference(a, b, first.value - second.value)
    return first._replace(value=found.value, low=found.low, high=found.high)


def _plain(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None


def _provenance(acquired: Mapping[str, Cohort], release: Mapping[str, Cohort]) -> dict[str, Any]:
    """What digests taken at acquisition, and the films themselves, say of a release."""
    same: list[NDArray[np.bool_]] = []
    alike: list[NDArray[np.float64]] = []
    ratio: list[NDArray[np.float64]] = []
    most = 0.0
    for name, films in acquired.items():
        for rows in blocks(len(films)):
            before, after = films.images[rows], release[name].images[rows]
            same.append(digests(before) == digests(after))
            alike.append(_pearson(before, after))
            ratio.append(peak_signal_to_noise(before, after))
            apart = np.abs(before.astype(np.float64) - after).max()
            most = max(most, float(apart) * 255 / np.iinfo(before.dtype).max)
    correlations = np.concatenate(alike)
    return {
        "digests that agree": float(np.concatenate(same).mean()),
        "pearson": [_plain(np.nanmedian(correlations)), _plain(np.nanmin(correlations))],
        "psnr": _plain(np.median(np.concatenate(ratio))),
        "largest edit": most,
    }


def _pearson(before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.float64]:
    """(n,) correlation over the pixels of each film with its copy; NaN for a flat film."""
    x, y = (films.reshape(len(films), -1).astype(np.float64) for films in (before, after))
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float64] = (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))
    return found


# --- the page


def lines(folder: Path) -> list[str]:
    """Return the audit's result, a line for each release.

    Raises:
        StoreError: a folder without an enhancement.
    """
    cells = store.read_json(folder / "enhancement.json")["cells"]
    return [
        f"{name}: macro AUROC {_shown(cell['network'], decimal)} on the release, "
        f"{_shown(cell['anew'], decimal)} on films acquired anew; digests of "
        f"{percent(cell['digests that agree'])} of the films agree. {_verdict(cell)}."
        for name, cell in cells.items()
    ]


def _verdict(cell: Mapping[str, Any]) -> str:
    """What the audit concludes, digests first."""
    agree, low = cell["digests that agree"] == 1, Estimate.parsed(cell["falls by"]).low
    falls = low > MARGIN
    if not agree:
        return "Edited" + (", and the result is not kept" if falls else "")
    return "Result not kept" if falls else "Nothing found"


def _page(tree: Tree, facts: Mapping[str, Any]) -> str:
    cells, parts, recipe = facts["cells"], facts["parts"], ROSENBLATT2023
    edit = facts["asked"]["enhancement"]
    sections = [
        "# Recipe rosenblatt2023",
        recipe.citation,
        recipe.what,
        "## Settings: the paper's and ours",
        settings_table(
            replace(recipe, cells={}), {k: v for k, v in tree.items() if k not in UNUSED}
        ),
        f"Films are moved by up to {edit['epsilon']:g} grey levels of 256 in {edit['steps']} "
        f"steps; the other method sees means of {edit['block']}x{edit['block']} px. All of it "
        "is ours. All other settings are defaults of `leadapron study`, and ours.",
        "## Left out, or done otherwise",
        "\n".join(f"- {sentence}" for sentence in recipe.left_out),
        "## Attacks and controls",
        "\n".join(
            f"- **{label}** ({'the paper has it' if cell.whose == 'paper' else 'ours'}): "
            f"{cell.what}."
            for label, cell in recipe.cells.items()
        ),
        "## Results",
        f"{facts['films']:,} films of {facts['patients']:,} patients. Released: {parts['train']:,} "
        f"films to train on, {parts['validation']:,} to validate on, {parts['test']:,} to test on; "
        f"acquired anew, of other patients: {parts['anew']:,}. Macro AUROC over "
        f"{facts['findings']} findings. The researcher's network and the methods that are judged "
        "start from different seeds. Brackets hold 95 % intervals clustered by patient.",
        _published(cells),
        "## The audit",
        "*Digests*: of the release's films, those whose digest is the one taken at acquisition. "
        "*Likeness*: Pearson's correlation over pixels, which an audit by eye or by correlation "
        "would go by. *Same films*: what the trained network makes of the test films as they were "
        "acquired. *Anew*: of films that the researcher never had. The result is *not kept* where "
        f"the interval of that fall lies above {MARGIN:g}. Digests need a register that was made "
        "before the researcher had the films; films acquired anew need none.",
        _audit(cells),
        *(str(note) for note in facts["notes"]),
    ]
    return "\n\n".join(sections) + "\n"


def _published(cells: Mapping[str, Any]) -> str:
    """What the researcher publishes, and whoever has the release alone confirms."""
    rows = [
        (
            name,
            _shown(cell["network"], decimal),
            _shown(cell["linear"], decimal),
            _shown(cell["advantage"], change),
        )
        for name, cell in cells.items()
    ]
    head = ("on the release's test films", "network", "logistic regression", "difference")
    return table(head, rows)


def _audit(cells: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            percent(cell["digests that agree"]),
            f"{cell['pearson'][0]:.4f} ({cell['pearson'][1]:.4f})",
            "none" if cell["psnr"] is None else f"{cell['psnr']:.1f}",
            f"{cell['largest edit']:g}",
            _shown(cell["as acquired"], decimal),
            _shown(cell["falls by on the same films"], change),
            _shown(cell["anew"], decimal),
            _shown(cell["falls by"], change),
            _verdict(cell),
        )
        for name, cell in cells.items()
    ]
    head = (
        "",
        "digests that agree",
        "likeness, median (least)",
        "PSNR, dB",
        "largest edit, grey levels",
        "network on the same films",
        "falls by",
        "network on films anew",
        "falls by",
        "the audit says",
    )
    return table(head, rows)


def _shown(facts: Mapping[str, Any], form: Callable[[float], str]) -> str:
    found = Estimate.parsed(facts)
    if not found.defined:
        return "undefined"
    within = "" if math.isnan(found.low) else f" ({between(found.low, found.high, form)})"
    return form(found.value) + within
