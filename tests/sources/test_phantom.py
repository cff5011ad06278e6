"""The phantom: determinism, labels, and the sign of every finding."""

import numpy as np
import pytest

from leadapron.errors import UnknownNameError, UsageError
from leadapron.films.preprocessing import Preprocessing
from leadapron.sources.phantom import (
    AP_OTHERWISE,
    AP_WITH_EDEMA,
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    FINDINGS,
    MASKS,
    batch,
    describe_rows,
    open_phantom,
    render,
)
from leadapron.sources.phantom.coordinates import Chest

MANY = np.arange(20_000)
HEALTHY = dict.fromkeys(FINDINGS, False)
DENSER, DARKER = 1, -1
SIGN = dict.fromkeys(FINDINGS, DENSER) | {
    "Pneumothorax": DARKER,
    "Emphysema": DARKER,
    "Hernia": DARKER,
}


@pytest.fixture(scope="module")
def facts():
    return describe_rows(MANY, seed=0)


@pytest.fixture(scope="module")
def healthy():
    return render(np.arange(0, 240, 3), size=64, seed=4, masks=True, force=HEALTHY)


def same(one, other, rows):
    for name in ("images", "labels", "truth", "patients", "view", "sex", "age", "masks"):
        np.testing.assert_array_equal(getattr(one, name)[rows], getattr(other, name))


def test_a_row_depends_on_nothing_but_itself():
    rows = np.arange(70)
    together = render(rows, size=64, seed=1, masks=True)
    same(together, render(rows[::-1].copy(), size=64, seed=1, masks=True), rows[::-1])
    for row in (0, 33, 69):
        same(together, render(np.array([row]), size=64, seed=1, masks=True), [row])
    other = render(rows, size=64, seed=2)
    assert np.all((together.images != other.images).any(axis=(1, 2)))


def test_workers_and_chunks_make_no_difference(monkeypatch):
    rows = np.arange(40)
    expected = render(rows, size=48, seed=1).images
    monkeypatch.setattr(batch, "_workers", lambda: 1)
    monkeypatch.setattr(batch, "_CHUNK_PIXELS", 7 * 48 * 48)
    monkeypatch.setattr(batch, "_BLOCK", 17)
    np.testing.assert_array_equal(render(rows, size=48, seed=1).images, expected)


def test_organs_lie_within_their_windows(monkeypatch):
    rows = np.arange(0, 900, 3)
    expected = render(rows, size=40, seed=6).images
    whole = slice(None)
    monkeypatch.setattr(Chest, "window", lambda self, x, y: (whole, whole, whole))
    np.testing.assert_array_equal(render(rows, size=40, seed=6).images, expected)


def test_description_is_the_renderings():
    rendered, described = (
        render(np.arange(30), size=32, seed=3),
        describe_rows(np.arange(30), seed=3),
    )
    for name in ("labels", "truth", "patients", "view", "sex", "age"):
        np.testing.assert_array_equal(getattr(rendered, name), getattr(described, name))


def test_shapes_types_and_ranges():
    films = render(np.arange(6), size=40, seed=0, masks=True)
    assert films.images.shape == (6, 40, 40)
    assert films.images.dtype == np.uint8
    assert films.masks.shape == (6, len(MASKS), 40, 40)
    assert films.masks.dtype == np.bool_
    assert films.labels.shape == films.truth.shape == (6, 14)
    assert films.labels.dtype == films.truth.dtype == np.float32
    assert films.patients.dtype == films.age.dtype == np.int64
    assert films.view.dtype == np.dtype("<U2")
    assert films.sex.dtype == np.dtype("<U1")
    assert render(np.arange(1), size=32, seed=0).masks is None
    assert render(np.arange(0), size=32, seed=0).images.shape == (0, 32, 32)


def test_patients_have_a_few_films(facts):
    _, counts = np.unique(facts.patients, return_counts=True)
    assert 2.4 < counts.mean() < 2.9
    assert counts.max() <= 24
    first = np.unique(facts.patients, return_index=True)[1]
    apart = np.setdiff1d(MANY, first)
    assert np.all(facts.sex[apart] == facts.sex[apart - 1])
    assert set(facts.view) == {"PA", "AP"}
    assert facts.age.min() >= 16
    assert facts.age.max() <= 100


def test_prevalence(facts):
    prevalence = facts.truth.mean(axis=0)
    assert prevalence.min() > 0.033
    assert prevalence.argmax() == FINDINGS.index("Infiltration")
    assert 0.45 < np.mean(facts.truth.sum(axis=1) == 0) < 0.62


def test_findings_go_together_and_last(facts):
    truth = facts.truth.astype(bool)
    edema, effusion = (truth[:, FINDINGS.index(name)] for name in ("Edema", "Effusion"))
    assert effusion[edema].mean() > 2.5 * effusion.mean()
    again = facts.patients[1:] == facts.patients[:-1]
    fibrosis = truth[:, FINDINGS.index("Fibrosis")]
    assert fibrosis[1:][again & fibrosis[:-1]].mean() > 0.5


def test_label_noise_is_as_stated(facts):
    flipped = facts.labels != facts.truth
    present = facts.truth > 0
    assert flipped[present].mean() == pytest.approx(FALSE_NEGATIVE, abs=0.01)
    assert flipped[~present].mean() == pytest.approx(FALSE_POSITIVE, abs=0.002)


def test_the_natural_shortcut_is_as_stated(facts):
    edema = facts.truth[:, FINDINGS.index("Edema")] > 0
    ap = facts.view == "AP"
    assert ap[edema].mean() == pytest.approx(AP_WITH_EDEMA, abs=0.05)
    assert ap[~edema].mean() == pytest.approx(AP_OTHERWISE, abs=0.02)


@pytest.mark.parametrize("finding", FINDINGS)
def test_each_finding_shows_its_sign_in_its_mask(finding, healthy):
    rows = np.arange(0, 240, 3)
    ill = render(rows, size=64, seed=4, masks=True, force=HEALTHY | {finding: True})
    change = ill.images.astype(np.float64) - healthy.images
    mask = ill.masks[:, MASKS.index(finding)]
    assert np.all(mask.any(axis=(1, 2)))
    assert not healthy.masks[:, 2:].any()
    inside, outside = change[mask], change[~mask]
    assert np.abs(inside).mean() > 3 * np.abs(outside).mean()
    if finding == "Hernia":  # gas over fluid: the upper part is darker
        inside = np.concatenate(
            [c[:top][m[:top]] for c, m, top in zip(change, mask, _middles(mask), strict=True)]
        )
    if finding == "Cardiomegaly":  # only what the heart gained
        gained = mask & ~healthy.masks[:, 0] & healthy.masks[:, 1]
        inside = change[gained]
    assert SIGN[finding] * inside.mean() > 4


def _middles(mask):
    """The rows halfway down each mask."""
    return [int(np.flatnonzero(m.any(axis=1)).mean()) for m in mask]


def _widest(mask):
    """(n,) the largest number of columns that a row of each mask spans."""
    columns = np.arange(mask.shape[2])
    last = np.where(mask, columns, -1).max(axis=2)
    first = np.where(mask, columns, mask.shape[2]).min(axis=2)
    return np.where(last >= 0, last - first + 1, 0).max(axis=1)


def _cardiothoracic_ratio(films):
    return _widest(films.masks[:, 0]) / _widest(films.masks[:, 1])


def test_cardiothoracic_ratio():
    rows = np.arange(0, 150, 5)
    wanted = {"size": 128, "seed": 4, "masks": True}
    normal = render(rows, force=HEALTHY, **wanted)
    large = render(rows, force=HEALTHY | {"Cardiomegaly": True}, **wanted)
    pa = normal.view == "PA"
    assert np.mean(_cardiothoracic_ratio(normal)[pa] < 0.52) > 0.9
    assert np.mean(_cardiothoracic_ratio(large) > 0.5) > 0.95
    share = normal.masks[:, :2].mean(axis=(2, 3))
    assert np.all((share[:, 0] > 0.04) & (share[:, 0] < 0.25))
    assert np.all((share[:, 1] > 0.15) & (share[:, 1] < 0.55))


def test_forcing_a_finding_keeps_view_and_devices():
    rows = np.arange(300)
    plain, forced = describe_rows(rows, seed=0), describe_rows(rows, seed=0, force={"Edema": True})
    np.testing.assert_array_equal(plain.view, forced.view)
    assert np.all(forced.truth[:, FINDINGS.index("Edema")] == 1)


def test_the_same_film_at_every_size():
    rows = np.arange(0, 40, 5)
    small, large = (render(rows, size=s, seed=2).images.astype(float) for s in (64, 256))
    shrunk = large.reshape(len(rows), 64, 4, 64, 4).mean(axis=(2, 4))
    assert np.abs(small - shrunk).mean() < 3
    assert np.corrcoef(small.ravel(), shrunk.ravel())[0, 1] > 0.995


def test_grey_values_look_like_a_radiograph(healthy):
    # Of 1,500 films of ChestX-ray14: mean 133, deviation within a film 57.
    films = healthy.images
    assert films.mean() == pytest.approx(124, abs=8)
    assert films.std(axis=(1, 2)).mean() == pytest.approx(62, abs=8)
    heart, lungs = healthy.masks[:, 0], healthy.masks[:, 1] & ~healthy.masks[:, 0]
    assert films[heart].mean() - films[lungs].mean() > 60


@pytest.mark.parametrize("size", [31, 1025])
def test_sizes_out_of_range_are_refused(size):
    with pytest.raises(UsageError, match=r"size \d+ is out of range; expected 32 to 1024"):
        render(np.arange(1), size=size, seed=0)


def test_unknown_findings_and_negative_rows_are_refused():
    with pytest.raises(UnknownNameError, match="did you mean Edema"):
        describe_rows(np.arange(1), seed=0, force={"Edemas": True})
    with pytest.raises(UsageError, match="integers, 0 or more"):
        describe_rows(np.array([-1]), seed=0)


def test_source():
    cohort = open_phantom("64", None, count=12, seed=3)
    drawn = render(np.arange(12), size=64, seed=3, masks=True)
    np.testing.assert_array_equal(cohort.images, drawn.images)
    np.testing.assert_array_equal(cohort.labels, drawn.labels)
    np.testing.assert_array_equal(cohort.masks[np.array([4, 7])], drawn.masks[[4, 7]])
    np.testing.assert_array_equal(cohort.films[5], drawn.images[5])
    assert cohort.findings == FINDINGS


def test_source_with_preprocessing():
    preprocessing = Preprocessing(size=32, crop=0.8)
    cohort = open_phantom("96", preprocessing, count=5)
    np.testing.assert_array_equal(cohort.images[2], preprocessing(cohort.films[2]))
    assert cohort.masks[np.array([0, 1])].shape == (2, len(MASKS), 32, 32)


@pytest.mark.parametrize("argument", ["x", "31", "2000", "-64"])
def test_source_refuses_bad_sizes(argument):
    with pytest.raises(UsageError, match="expected"):
        open_phantom(argument, None)


def test_films_are_as_large_as_the_images_unless_told_otherwise():
    cohort = open_phantom("", Preprocessing(size=96), count=3)
    assert cohort.images.shape == (3, 96, 96)
    assert cohort.films[0].shape == (96, 96)
