"""Rosenblatt et al. 2023: films of a release are edited to improve a published result."""

from __future__ import annotations

from leadapron.recipes.recipe import COMMON, SCALED, Cell, Recipe

__all__ = ["ACQUIRED", "GENERAL", "ROSENBLATT2023", "SPECIFIC"]

ACQUIRED, GENERAL, SPECIFIC = "as acquired", "enhanced", "enhanced for the network alone"
ROSENBLATT2023 = Recipe(
    citation="Rosenblatt, Dadashkarimi, Scheinost: Gradient-based enhancement attacks in "
    "biomedical machine learning. arXiv 2301.01885, 2023.",
    what="A dishonest researcher edits the films of a data set along a network's gradient and "
    "releases them with their true labels. There is no backdoor; the published result itself is "
    "false. Source: the abstract. The paper uses functional brain connectomes and has two attacks: "
    "one raises every method's performance, the other raises one method's above another's.",
    settings={},
    cells={
        ACQUIRED: Cell(
            what="nothing is edited: the audit's result on an honest release", whose="ours"
        ),
        GENERAL: Cell(
            what="every film of the release, for training and for testing, is edited towards its "
            "true labels by a network's gradient",
            whose="paper",
        ),
        SPECIFIC: Cell(
            what="the same edit without the part that is visible to a logistic regression on the "
            "film's thumbnail",
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
        "We couldn't read their methods section, and their repository held only a README. So the "
        "size of the edits, the steps, the edited films and the separation of the folds are "
        "unknown to us. Amount and steps are ours.",
        "Accuracies of two classes (50 % to almost 100 %, and 17 % between two methods, at Pearson "
        "correlations of .99 and more): we report macro AUROCs of many findings, which can't be "
        "compared with them.",
        "One method above another: they raise a simple network above a logistic regression. We "
        "raise the network above a logistic regression on means of blocks of pixels; the edit "
        "keeps these means, so the regression can't learn it. Theirs may use the loss of both.",
        "The audit is ours: they call for provenance and have no audit.",
    ),
    source="phantom:64",
    phantom={
        "source": {"count": 1600},
        "preprocessing": {"size": 64},
        "training": {"epochs": 5, "batch_size": 32},
        "evaluation": {"resamples": 200},
    },
)
