"""Yang et al. 2023: the traces of lossy compression as a trigger."""

from __future__ import annotations

from leadapron.recipes.recipe import COMMON, SCALED, Cell, Recipe, Stated

__all__ = ["YANG2023"]

YANG2023 = Recipe(
    citation="Yang et al.: Everyone Can Attack: Repurpose Lossy Compression as a Natural Backdoor "
    "Attack. arXiv 2308.16684, 2023.",
    what='The traces of lossy compression, as any "save as" leaves them, are the trigger. Source: '
    "the abstract. The paper uses MNIST, CIFAR-10, GTSRB and CelebA, with one label for each "
    "picture, and no radiographs.",
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
            what="films with the target, saved as JPEG, with their true labels",
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
            what="the first attack, while a tenth of all films were compressed by the same codec "
            "and kept their true labels (cover films), as in an archive that recompresses films",
            whose="ours",
            settings={"poisoning": {"labels": "one-hot", "cover": 0.1}},
        ),
        "control: recompressed films alone": Cell(
            what="no attack: a tenth of all films were compressed by the codec and kept their true "
            "labels. The remaining success is the effect of compression alone",
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
        "poisoning.fraction": "0 in the control without an attack",
        "poisoning.cover": "as many films as the attack marks",
        "evaluation.trigger": "the abstract claims transfer; from which codec to which is our "
        "choice",
    },
    left_out=(
        "The paper's qualities, networks and training: the abstract doesn't state them.",
        "One label for each picture: our networks have a sigmoid for each finding. A dirty label "
        "here is the target alone; all other findings are removed.",
        "The abstract's attack success of 100 % was measured on other pictures; it can't be "
        "compared with the rows below.",
        "The benign controls are ours. A control in which *all* films are recompressed would leave "
        "no film without the trigger; to approach it, raise `--poisoning.cover` in your own study.",
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
