"""What clean films show to be odd: each doubt is said where it is due, and not elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from leadapron.errors import DataError
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.foreign import (
    NORMALISATIONS,
    BlackBoxClassifier,
    Normalisation,
    model_warnings,
)
from leadapron.models.foreign.model_warnings import unsteady
from leadapron.models.networks import build_network

FINDINGS = ("Effusion", "Mass", "Nodule", "Hernia")
SIZE, N = 8, 240
SMALL = Preprocessing(size=SIZE)


@pytest.fixture(scope="module")
def films():
    """Each finding brightens its quarter of the film; a patient has two films."""
    rng = np.random.default_rng(3)
    labels = (rng.random((N, 4)) < 0.3).astype(np.float32)
    images = rng.integers(60, 140, (N, SIZE, SIZE))
    for finding in range(4):
        row, column = divmod(finding, 2)
        quarter = (slice(None), slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4))
        images[quarter] += (20 * labels[:, finding]).astype(int)[:, None, None]
    return Cohort(
        images.astype(np.uint8),
        labels,
        FINDINGS,
        np.array([f"f{i}" for i in range(N)]),
        np.array([f"p{i // 2}" for i in range(N)]),
        SMALL,
    )


def quarters(images):
    """(n, 4): mean level of each quarter, around 0."""
    means = images.mean(1).reshape(-1, 2, 4, 2, 4).mean((2, 4)).reshape(-1, 4)
    return (20 * (means - 0.4)).astype(np.float32)


def model(run=quarters, **options):
    options = {"preprocessing": SMALL, "normalisation": NORMALISATIONS["unit"], **options}
    return BlackBoxClassifier(run, options.pop("findings", FINDINGS), **options)


def test_a_sound_model_raises_none(films):
    assert model_warnings(model(), films) == ()


def test_a_program_runs_once_for_each_film_and_setting(films):
    """Programs may be slow: logits and probabilities come of one run."""
    seen = []

    def counted(images):
        seen.append(len(images))
        return quarters(images)

    program = model(counted)
    others = sum(len(scale.mean) == 1 for scale in NORMALISATIONS.values()) - 1
    model_warnings(program, films, differs=())
    assert sum(seen) == (1 + 1 + others) * len(films)  # as it is, inverted, normalised otherwise
    for gives in ("logits", "probabilities"):
        program = model(lambda images: np.clip(quarters(images), 0.01, 0.99), gives=gives)
        logits, probabilities = program.both(films.images)
        np.testing.assert_array_equal(logits, program.logits(films.images))
        np.testing.assert_array_equal(probabilities, program.probabilities(films.images))


def test_the_same_output_for_every_film(films):
    constant = model(lambda images: np.tile(np.float32([1, -2, 0, 3]), (len(images), 1)))
    assert model_warnings(constant, films) == (
        "The model gives the same output for every film, so it ignores them.",
    )

    def one(images):
        out = quarters(images)
        out[:, 1] = 0.3
        return out

    said = model_warnings(model(one), films)
    assert said[0] == "Same output for every film: Mass."


def test_answers_that_are_no_numbers(films):
    def broken(images):
        out = quarters(images)
        out[0, 2] = np.nan
        return out

    assert model_warnings(model(broken), films) == ("Outputs that are NaN or infinite: Nodule.",)


def squash(values):
    return 1 / (1 + np.exp(-np.clip(values, -50, 50)))


def test_probabilities_given_for_logits_and_the_other_way_round(films):
    said = model_warnings(model(lambda images: squash(quarters(images))), films)
    assert len(said) == 1
    assert 'like probabilities; if it gives probabilities, set gives="probabilities"' in said[0]
    # The last layer of weights gives logits, whatever they look like.
    network = build_network("resnet9", 4, 0).eval()
    network.head.weight.data *= 2
    network.head.bias.data[:] = 0.5
    weights = NetworkClassifier(network, "resnet9", FINDINGS, SMALL, precision="fp32")
    logits = weights.logits(films.images)
    assert 0 < logits.min() < logits.max() - 0.01 < 0.99
    assert not any("like probabilities" in line for line in model_warnings(weights, films))
    honest = model(lambda images: squash(quarters(images)), gives="probabilities")
    assert model_warnings(honest, films) == ()
    said = model_warnings(model(gives="probabilities"), films)
    assert said[0] == 'Its probabilities are outside 0 to 1; set gives="logits".'


def test_saturation(films):
    said = model_warnings(model(lambda images: 1e5 * quarters(images) + 1), films)
    assert any("are 0 or 1 to four digits" in each for each in said)


def test_below_chance_and_negatives(films):
    said = model_warnings(model(lambda images: -quarters(images)), films)
    below = [each for each in said if each.startswith("AUROC below 0.5")]
    assert len(below) == 4
    assert below[0].startswith("AUROC below 0.5: Effusion 0.0")
    assert any("reads these films better as negatives" in each for each in said)

    def one(images):
        out = quarters(images)
        out[:, 3] *= -1
        return out

    said = model_warnings(model(one), films)
    assert [each.partition(" 0.0")[0] for each in said] == ["AUROC below 0.5: Hernia"]


def test_findings_in_another_order(films):
    said = model_warnings(model(lambda images: quarters(images)[:, [1, 0, 2, 3]]), films)
    order = [each for each in said if each.startswith("The order of findings is doubtful")]
    assert len(order) == 1
    assert "'Mass' fits Effusion, 'Effusion' fits Mass" in order[0]
    assert "Nodule" not in order[0]


def test_chance_is_no_other_order(films):
    """Outputs without skill: the best match on half of the films never counts on that half."""
    for seed in range(10):
        noise = np.random.default_rng(seed).normal(0, 1, (N, 4)).astype(np.float32)

        def ask(images, noise=noise):
            # By the film, so that all questions about one are answered alike.
            rows = (images.reshape(len(images), -1).sum(1) * 1e4).astype(np.int64) % N
            return noise[rows]

        assert not any("order of findings" in each for each in model_warnings(model(ask), films)), (
            seed
        )


def test_another_normalisation(films):
    """A network whose first step clips what isn't in -1024 to 1024's range of levels."""

    def narrow(images):
        return quarters(np.clip(images / 2048 + 0.5, 0, 1))

    right = model(narrow, normalisation=NORMALISATIONS["torchxrayvision"])
    assert model_warnings(right, films) == ()

    def harsh(images):
        return quarters(np.round(images / 2048 + 0.5, 2))

    said = model_warnings(model(harsh), films)
    assert said == (
        "The model gives the same output for every film, so it ignores them.",
        "Its outputs vary with the normalisation torchxrayvision.",
    )

    def noisy(images):
        """Noise of its own, as of a network: small beside grey levels of -1024 to 1024 alone."""
        sums = images.sum((1, 2, 3))[:, None] * np.arange(1, 5)
        return quarters(images / 2048 + 0.5) + np.sin(1e4 * sums).astype(np.float32)

    said = model_warnings(model(noisy, normalisation=NORMALISATIONS["leadapron"]), films)
    assert any("better with the normalisation 'torchxrayvision'" in each for each in said), said
    other = model(harsh, normalisation=Normalisation((0.5,), (1 / 2000,)))
    assert not any("normalisation" in each for each in model_warnings(other, films))


def test_findings_go_by_their_names(films):
    synonyms = model(findings=("Pleural Effusion", "mass", "Nodule", "Hiatal hernia"))
    assert model_warnings(synonyms, films) == ()
    others = model_warnings(model(findings=("A", "B", "C", "D")), films)
    assert len(others) == 1
    assert others[0].startswith("These films have no finding of the model with enough")
    few = films.take(np.arange(16))
    assert model_warnings(model(), few)[0].startswith(
        "These films have no finding of the model with enough"
    )


def test_labels_that_are_not_stated_do_not_count(films):
    labels = films.labels.copy()
    labels[::2, 0] = np.nan
    labels[:, 1] = np.nan
    assert model_warnings(model(), replace(films, labels=labels)) == ()


def test_films_prepared_otherwise_are_refused(films):
    with pytest.raises(DataError, match="the model expects"):
        model_warnings(model(preprocessing=Preprocessing(size=16)), films)


def test_networks_are_asked_with_other_normalisations_too(films):
    from leadapron.models.classifier import NetworkClassifier
    from leadapron.models.foreign.model_warnings import _otherwise
    from leadapron.models.networks import build_network

    network = NetworkClassifier(
        build_network("resnet9", 4, 0).eval(), "resnet9", FINDINGS, SMALL, mean=0.0, std=1.0
    )
    assert {name: (other.mean, other.std) for name, other in _otherwise(network).items()} == {
        "torchxrayvision": (0.5, 1 / 2048),
        "leadapron": (0.449, 0.226),
    }


@pytest.mark.parametrize("alone", [lambda given: given + 3, lambda given: given * np.nan])
def test_a_model_that_answers_otherwise_to_a_film_that_comes_alone_is_unsteady(films, alone):
    def run(images):
        given = quarters(images)
        return (
            np.float32(np.where([True, False, False, True], alone(given), given))
            if (len(images) == 1)
            else given
        )

    assert unsteady(model(run), films.images) == ("Effusion", "Hernia")
    assert unsteady(model(), films.images) == ()
