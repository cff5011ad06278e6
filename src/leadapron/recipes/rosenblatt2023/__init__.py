"""Rosenblatt et al. 2023: films of a release edited until a published result looks good."""

from __future__ import annotations

from leadapron.recipes.recipe import COMMON, SCALED, Cell, Recipe

__all__ = ["ACQUIRED", "GENERAL", "ROSENBLATT2023", "SPECIFIC"]

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
