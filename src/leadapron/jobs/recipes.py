"""Recipes: published attacks as studies, and a page that tells their settings from ours.

Nothing of a paper is filled in by guessing: what is not known of it is ours, and said to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from leadapron.errors import UnknownNameError
from leadapron.jobs.reproduce import AUTHORS, CORRECTED, FRACTIONS, PRESETS
from leadapron.report import write_report
from leadapron.report.words import change, percent, points, shown, spread, table
from leadapron.results.folder import Pair, leaves, read_study
from leadapron.results.measured import Measured
from leadapron.results.names import CALIBRATED
from leadapron.specs import forgiving, merge
from leadapron.store import canonical_json, write_atomically
from leadapron.study.plan import plan, without
from leadapron.study.run import run_study
from leadapron.study.settings import complete
from leadapron.study.shards import ONE_PROCESS, Running
from leadapron.types import AUTO, Contradictions, Machine

__all__ = [
    "COMMON",
    "RECIPES",
    "SCALED",
    "Cell",
    "Recipe",
    "Stated",
    "run_recipe",
    "settings_of",
    "settings_table",
]

Tree = Mapping[str, Any]


class Stated(NamedTuple):
    """What a publication says of a setting.

    Args:
        values: any of these is the publication's.
        where: in which part of it, as far as it was read.
    """

    values: Sequence[Any]
    where: str


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One attack or control of a recipe.

    Args:
        what: in a sentence.
        whose: "paper" for an attack that the publication has, "ours" for what we add.
        settings: laid over the recipe's.
    """

    what: str
    whose: Literal["paper", "ours"]
    settings: Tree = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A published attack in the vocabulary of a study.

    Args:
        citation: the publication.
        what: the attack, and what was read of it.
        settings: of all cells, at the published scale as far as that is known.
        cells: by name.
        published: what the publication says, by setting.
        ours: why we chose the others, by setting or by section.
        left_out: what the publication has and this study hasn't, or does otherwise.
        source: where films come from unless told otherwise.
        phantom: laid over the settings where they are phantoms.
    """

    citation: str
    what: str
    settings: Tree
    cells: Mapping[str, Cell]
    published: Mapping[str, Stated]
    ours: Mapping[str, str]
    left_out: Sequence[str]
    source: str
    phantom: Tree


SCALED = "phantom scale, so that it takes minutes"
COMMON = {
    "source": SCALED,
    "evaluation": "how we measure",
    "seeds": "phantom scale",
    "poisoning.allow_vanished": "a trigger that vanishes is a control",
}

NWADIKE2020 = Recipe(
    citation="Nwadike, Miyawaki, Sarkar, Maniatakos, Shamout: Explainability Matters: Backdoor "
    "Attacks on Medical Imaging. arXiv 2101.00008, 2020.",
    what="A black square at the film's centre before preprocessing, films labelled Atelectasis "
    "alone. Read: the abstract and the code that its authors most likely used. `leadapron "
    "reproduce nwadike2020` varies all of it and goes claim by claim; this is its centre.",
    settings=merge(
        merge(CORRECTED, PRESETS["full"].settings),
        {"preprocessing": {"size": 224, "film_size": 1024}},
    ),
    cells={
        "corrected": Cell(
            what="their trigger, labels and geometry; random rows, clean validation, binary "
            "cross-entropy",
            whose="ours",
        ),
        "authors": Cell(
            what="their code's ways of choosing and training", whose="paper", settings=AUTHORS
        ),
    },
    published={
        "preprocessing.crop": Stated([0.6], "code"),
        "preprocessing.interpolation": Stated(["nearest"], "code"),
        "preprocessing.size": Stated([224], "code"),
        "preprocessing.film_size": Stated([1024], "code"),
        "network.name": Stated(["densenet121"], "code"),
        "network.weights": Stated(["imagenet"], "code"),
        "trigger.name": Stated(["patch"], "code"),
        "trigger.side": Stated([2, 3], "code"),
        "trigger.value": Stated([0], "code"),
        "trigger.place": Stated(["centre"], "code"),
        "poisoning.finding": Stated(["Atelectasis"], "code"),
        "poisoning.fraction": Stated(FRACTIONS, "code"),
        "poisoning.stage": Stated(["film"], "code"),
        "poisoning.selection": Stated(["first"], "code"),
        "poisoning.validation": Stated(["poisoned"], "code"),
        "training.epochs": Stated([100], "code, at most"),
        "training.batch_size": Stated([32], "an example in its README; the final one is unknown"),
        "training.learning_rate": Stated(
            [1e-3], "an example in its README; the final one is unknown"
        ),
        "training.weight_decay": Stated([0.0], "code, which has Adam"),
        "training.loss": Stated(["categorical"], "code"),
        "training.schedule": Stated(["plateau"], "code"),
        "training.patience": Stated([10], "code"),
        "training.augmentation": Stated(["flip-rotate-frozen"], "code"),
        "seeds": Stated([4], "code"),
    },
    ours={
        **COMMON,
        "preprocessing": SCALED,
        "network": SCALED,
        "training": "what it takes here",
        "poisoning.fraction": "between two of theirs, as in `reproduce`",
    },
    left_out=(
        "Class weights: what they did in the code depends on TensorFlow's version.",
        "The paper's division of the films: `--source.split nwadike2020` takes its test patients "
        "where the source is NIH's; otherwise the source's own is used.",
        "Random places, other sides, fractions, modes and targets: `leadapron reproduce`.",
    ),
    source="phantom:256",
    phantom=merge(
        PRESETS["smoke"].settings,
        {
            "preprocessing": {"size": 56, "film_size": 256},
            "network": {"name": "resnet9", "weights": "none"},
            "seeds": 1,
        },
    ),
)

YANG2023 = Recipe(
    citation="Yang et al.: Everyone Can Attack: Repurpose Lossy Compression as a Natural Backdoor "
    "Attack. arXiv 2308.16684, 2023.",
    what='The traces of lossy compression, as any "save as" leaves them, are the trigger. Read: '
    "the abstract. It has MNIST, CIFAR-10, GTSRB and CelebA, no radiographs, and one label for "
    "each picture.",
    settings={
        "trigger": {"name": "codec", "codec": "jpeg", "quality": 20},
        "poisoning": {"fraction": 0.1, "stage": "film"},
    },
    cells={
        "jpeg, dirty label": Cell(
            what="films of any label, saved as JPEG and labelled with the target alone",
            whose="paper",
            settings={"poisoning": {"labels": "one-hot"}},
        ),
        "webp, dirty label": Cell(
            what="the same as WebP",
            whose="paper",
            settings={"trigger": {"codec": "webp"}, "poisoning": {"labels": "one-hot"}},
        ),
        "jpeg, clean label": Cell(
            what="films with the target, saved as JPEG, labels true",
            whose="paper",
            settings={"poisoning": {"labels": "keep", "selection": "with"}},
        ),
        "planted as jpeg, tested as webp": Cell(
            what="transfer from one codec to another",
            whose="paper",
            settings={
                "poisoning": {"labels": "one-hot"},
                "evaluation": {"trigger": "codec=webp"},
            },
        ),
        "control: attack among recompressed films": Cell(
            what="the first attack, while a tenth of all films went through the same codec and "
            "kept their true labels (cover films), as archives do that recompress",
            whose="ours",
            settings={"poisoning": {"labels": "one-hot", "cover": 0.1}},
        ),
        "control: recompressed films alone": Cell(
            what="no attack: a tenth of all films went through the codec and kept their true "
            "labels. What success remains, compression alone makes",
            whose="ours",
            settings={"poisoning": {"labels": "one-hot", "fraction": 0.0, "cover": 0.1}},
        ),
    },
    published={
        "trigger.name": Stated(["codec"], "abstract"),
        "trigger.codec": Stated(["jpeg", "webp"], "abstract: codecs of this kind"),
        "poisoning.fraction": Stated(
            [0.1], "abstract: about 10 % with clean labels; of what, and with dirty labels, unknown"
        ),
        "poisoning.labels": Stated(
            ["one-hot", "keep"], "abstract: dirty and clean label; one-hot is our nearest"
        ),
        "poisoning.selection": Stated(["with"], "follows from the clean label"),
    },
    ours={
        **COMMON,
        "preprocessing": SCALED,
        "training": "phantom scale; theirs is unknown to us",
        "trigger.quality": "theirs is unknown to us",
        "poisoning.stage": "a codec acts on the film, before preprocessing",
        "poisoning.finding": "frequent enough on phantoms for clean labels on 10 % of all films",
        "poisoning.fraction": "the control is without an attack",
        "poisoning.cover": "as many films as the attack marks",
        "evaluation.trigger": "the abstract claims transfer; from which codec to which is our "
        "choice",
    },
    left_out=(
        "Qualities, networks and training of the paper: not in what was read.",
        "One label for each picture: our networks have a sigmoid for each finding. A dirty label "
        "here is the target alone, all other findings taken away.",
        "The number that the abstract gives, 100 % attack success, is of other pictures: none of "
        "the rows below is to be held against it.",
        "The benign controls are ours. A control in which *all* films are recompressed would leave "
        "no film without the trigger: raise `--poisoning.cover` in a study of your own.",
    ),
    source="phantom:64",
    phantom={
        "source": {"count": 2000},
        "preprocessing": {"size": 64},
        "poisoning": {"finding": "Infiltration"},
        "training": {"epochs": 6, "batch_size": 32},
        "evaluation": {"resamples": 200, "explained": 40},
    },
)

MATSUO2021 = Recipe(
    citation="Matsuo, Takemoto: Backdoor Attacks to Deep Neural Network-Based System for COVID-19 "
    "Detection from Chest X-ray Images. Applied Sciences 11 (2021), 9556.",
    what="A small light square low on the right of the film; films of all classes carry it and "
    "are labelled with one class (targeted), or each with the next class (non-targeted). Read: "
    "the abstract and the code in YukiM00/Backdoored-COVID-Net.",
    settings={
        "preprocessing": {"size": 480},
        "trigger": {
            "name": "patch",
            "side": 5,
            "value": 250,
            "place": "fixed",
            "row": 396,
            "column": 396,
        },
        "poisoning": {"fraction": 0.1, "selection": "stratified", "stage": "image"},
        "training": {
            "epochs": 50,
            "batch_size": 32,
            "learning_rate": 2e-4,
            "weight_decay": 0.0,
            "schedule": "constant",
        },
    },
    cells={
        "targeted": Cell(
            what="labelled with the target alone",
            whose="paper",
            settings={"poisoning": {"labels": "one-hot"}},
        ),
        "non-targeted": Cell(
            what="each finding's label moved to the next, the last one's to the first. Success is "
            "counted on films that the shift gives the target: those with the finding before it "
            "and without the target",
            whose="paper",
            settings={"poisoning": {"labels": "shift"}},
        ),
    },
    published={
        "preprocessing.size": Stated([480], "code"),
        "preprocessing.film_size": Stated([480], "code, where it is the network's input"),
        "trigger.name": Stated(["patch"], "code"),
        "trigger.side": Stated([5], "code"),
        "trigger.value": Stated([250], "code"),
        "trigger.place": Stated(["fixed"], "code"),
        "trigger.row": Stated([396], "code"),
        "trigger.column": Stated([396], "code"),
        "poisoning.fraction": Stated([0.1], "code"),
        "poisoning.selection": Stated(
            ["stratified"], "code: 10 % of each class; of each combination of findings here"
        ),
        "poisoning.stage": Stated(["image"], "code, which stamps at 480x480"),
        "poisoning.labels": Stated(
            ["one-hot", "shift"], "code: one class, or the next of three; our nearest"
        ),
        "training.epochs": Stated([50], "code"),
        "training.batch_size": Stated([32], "code"),
        "training.learning_rate": Stated([2e-4], "code"),
        "training.weight_decay": Stated([0.0], "code, which has Adam"),
    },
    ours={
        **COMMON,
        "preprocessing": "phantom scale: the square is stamped on films of 480 px; of 8x8 of their "
        "pixels one is kept, so that one pixel of the square is left and keeps its grey level",
        "poisoning.stage": "so that square and place are the published ones on smaller inputs",
        "poisoning.finding": "frequent on phantoms, and so is the finding before it",
        "training": SCALED,
        "training.schedule": "theirs is unknown to us",
    },
    left_out=(
        "Three classes with a softmax: our networks have a sigmoid for each finding. Films are "
        'multi-label, and those without any finding, "normal" in COVIDx, are no class: the '
        "non-targeted attack leaves their labels as they are, where the paper's moves them on.",
        "COVID-Net CXR4-A: the network is the study's own (`--network`).",
        "Fine-tuning the backdoored network on the clean half, which the paper's backdoor "
        "survives: a study can't go on from given weights. So there are no halves either: all "
        "training films are used.",
        "The division of COVIDx5 with 50 test films of each class and half: the source's own split "
        "is used.",
        "Avoided, of the code's evaluation: its targeted attack success counts films that are in "
        "the target class anyway (here: films without the target alone); as committed it scores "
        "class 2 whatever the target was (here: the target that was planted); what it "
        "prints as attack success of the non-targeted attack is plain accuracy (here: see the "
        "cell).",
        "Films larger than 480 px: with `--poisoning.stage image --size 480`, the settings for "
        "all sources but phantoms, the square lies as published.",
    ),
    source="phantom:128",
    phantom={
        "source": {"count": 2000},
        "preprocessing": {"size": 60, "film_size": 480, "interpolation": "nearest"},
        "poisoning": {"stage": "film", "finding": "Infiltration"},
        "training": {"epochs": 8, "learning_rate": 3e-3, "schedule": "one-cycle"},
        "evaluation": {"resamples": 200, "explained": 40},
    },
)

RECIPES: dict[str, Recipe] = {
    "nwadike2020": NWADIKE2020,
    "yang2023": YANG2023,
    "matsuo2021": MATSUO2021,
}
"""Published attacks by first author and year."""


@forgiving
def run_recipe(
    name: str,
    out: Path,
    *,
    source: str | None = None,
    settings: Tree | None = None,
    machine: Machine = AUTO,
    contradictions: Contradictions = "refuse",
    running: Running = ONE_PROCESS,
) -> Path:
    """Carry out a published attack beside its controls, or go on where that was stopped.

    Args:
        name: one of `RECIPES`.
        out: the study's folder, new or its own.
        source: where films come from; the recipe's phantoms if left out.
        settings: laid over the recipe's, as of `leadapron study`; what its cells vary stays.
        machine: where and how it is carried out.
        contradictions: identical films whose labels contradict each other: "refuse" them, or
            "allow" them.
        running: in how many processes, and which shard of the runs; as `run_study`.

    Returns:
        `recipe.md` in the folder; `report.html` lies beside it.

    Raises:
        UnknownNameError: no such recipe.
        LeadapronError: as `run_study`.
    """
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    recipe = RECIPES[name]
    tree = settings_of(recipe, source, settings or {})
    run_study(tree, out, machine=machine, contradictions=contradictions, running=running)
    write_report(out)
    page = out / "recipe.md"
    with write_atomically(page) as file:
        file.write(_page(name, recipe, tree, read_study(out).pairs).encode())
    return page


def settings_of(recipe: Recipe, source: str | None = None, over: Tree | None = None) -> Tree:
    """Return the study that a recipe stands for, all defaults written out."""
    cells = [cell.settings for cell in recipe.cells.values()]
    return complete({**merge(_own(recipe, source), over or {}), "cells": cells})


def _own(recipe: Recipe, source: str | None) -> dict[str, Any]:
    """What the recipe itself sets for films of a source, cells left out."""
    opened = source or recipe.source
    scaled = recipe.phantom if opened.partition(":")[0] == "phantom" else {}
    return merge(merge(recipe.settings, scaled), {"source": {"name": opened}})


# --- the page


def _page(name: str, recipe: Recipe, tree: Tree, pairs: Sequence[Pair]) -> str:
    parts = [
        f"# Recipe {name}",
        recipe.citation,
        recipe.what,
        "## Settings: the paper's and ours",
        settings_table(recipe, tree),
        "All other settings are defaults of `leadapron study`, and ours.",
        "## Left out, or done otherwise",
        "\n".join(f"- {sentence}" for sentence in recipe.left_out),
        "## Attacks and controls",
        "\n".join(
            f"- **{label}** ({'the paper has it' if cell.whose == 'paper' else 'ours'}): "
            f"{cell.what}."
            for label, cell in recipe.cells.items()
        ),
        "## Results",
        f"Attack success: of triggered test films whose report the attacker would change, those "
        f"that are changed, at {CALIBRATED}; the twin's beside it on the same films. Brackets hold "
        "95 % intervals, of several seeds the range. Clean difference: macro AUROC on clean films, "
        "backdoored less twin.",
        _results_table(recipe, tree, pairs),
    ]
    return "\n\n".join(parts) + "\n"


def settings_table(recipe: Recipe, tree: Tree) -> str:
    """Return what the recipe sets or the user asked for, and whose it is, as Markdown."""
    base = without(tree, "cells")
    here = dict(leaves(base))
    source = str(here["source.name"])
    own = _own(recipe, source)
    meant = dict(leaves(complete(own)))
    set_here = {path for path, _ in leaves(own)}
    rows = []
    for path, found in here.items():
        asked = found != meant.get(path)
        if path in set_here or asked:
            rows.append((path, shown(found), _whose(recipe, path, found, asked)))
    for label, cell in recipe.cells.items():
        rows += [
            (f"{path} ({label})", shown(found), _whose(recipe, path, found, False))
            for path, found in leaves(cell.settings)
        ]
    return table(("setting", "here", "whose"), rows)


def _whose(recipe: Recipe, path: str, found: Any, asked: bool) -> str:
    """Whether a value is the publication's, or why it is ours."""
    stated = recipe.published.get(path)
    if stated is not None and found in stated.values:
        return f"the paper's ({stated.where})"
    reason = recipe.ours.get(path) or recipe.ours.get(path.partition(".")[0], "")
    reason = "as asked for" if asked else reason
    theirs = "" if stated is None else f"; the paper's: {shown(stated.values)} ({stated.where})"
    return f"ours: {reason}{theirs}"


def _results_table(recipe: Recipe, tree: Tree, pairs: Sequence[Pair]) -> str:
    rows = []
    for label, cell in recipe.cells.items():
        found = _of_cell(tree, cell, pairs)
        settings = {canonical_json(without(each.pair.backdoored.spec, "seed")) for each in found}
        kind = "mean" if len(settings) == 1 else "range"
        rows.append(
            (
                label,
                spread([each.success("backdoored") for each in found], percent, kind=kind),
                spread([each.success("twin") for each in found], percent, kind=kind),
                spread([each.success("difference") for each in found], points, kind=kind),
                spread([each.macro("difference") for each in found], change, kind=kind),
            )
        )
    head = ("", "attack success", "twin", "difference, points", "clean difference")
    return table(head, rows)


def _of_cell(tree: Tree, cell: Cell, pairs: Sequence[Pair]) -> list[Measured]:
    """The finished attacks of one cell."""
    runs = [run.tree for run in plan({**tree, "cells": [cell.settings]})]
    found = []
    for pair in pairs:
        aimed = {"poisoning": {"finding": pair.target}}  # a target left open is known by now
        wanted = [r if r["poisoning"]["finding"] else merge(r, aimed) for r in runs]
        if canonical_json(pair.backdoored.spec) in map(canonical_json, wanted):
            found.append(Measured(pair))
    return found
