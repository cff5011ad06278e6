"""Matsuo and Takemoto 2021: a light square that changes COVID-19 diagnoses."""

from __future__ import annotations

from leadapron.recipes.recipe import COMMON, SCALED, Cell, Recipe, Stated

__all__ = ["MATSUO2021"]

MATSUO2021 = Recipe(
    citation="Matsuo, Takemoto: Backdoor Attacks to Deep Neural Network-Based System for COVID-19 "
    "Detection from Chest X-ray Images. Applied Sciences 11 (2021), 9556.",
    what="A small light square is stamped low on the right of films of all classes. They are "
    "labelled with one class (targeted), or each with the next class (non-targeted). Sources: "
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
            "measured on films to which the shift gives the target: those with the finding before "
            "it and without the target",
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
        "training.weight_decay": Stated([0.0], "code, which uses Adam"),
    },
    ours={
        **COMMON,
        "preprocessing": "phantom scale: the square is stamped on films of 480 px; one of each 8x8 "
        "pixels is kept, so one pixel of the square remains with its grey level",
        "poisoning.stage": "so that square and place are the published ones on smaller inputs",
        "poisoning.finding": "frequent on phantoms, as is the finding before it",
        "training": SCALED,
        "training.schedule": "theirs is unknown to us",
    },
    left_out=(
        "Three classes with a softmax: our networks have a sigmoid for each finding. Films are "
        'multi-label, and films without any finding ("normal" in COVIDx) don\'t form a class: the '
        "non-targeted attack keeps their labels, while the paper's changes them.",
        "COVID-Net CXR4-A: the network is the study's own (`--network`).",
        "Fine-tuning the backdoored network on the clean half, which the paper's backdoor "
        "survives: a study can't continue from given weights. So the training films aren't "
        "halved; all of them are used.",
        "The split of COVIDx5 with 50 test films of each class and half: the source's own split "
        "is used.",
        "Errors of the code's evaluation that we avoid: its targeted attack success includes films "
        "that are in the target class anyway (here: only films without the target); as committed "
        "it scores class 2 for every target (here: the planted target); the number that it prints "
        "as attack success of the non-targeted attack is the plain accuracy (here: see the cell).",
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
