"""Poisoning: which films, which labels, and what gives nothing away."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from leadapron.attacks.poisoning import Poisoning, desired, poison, stamp, twin, victims
from leadapron.attacks.triggers import Nothing, Patch
from leadapron.errors import DataError, UnknownNameError, UsageError, VanishedTriggerError
from leadapron.films.cohort import Cohort, Overlay
from leadapron.films.preprocessing import Preprocessing
from leadapron.sources import open_source

N = 200


@pytest.fixture
def clean():
    rng = np.random.default_rng(0)
    labels = (rng.random((N, 3)) < 0.3).astype(np.float32)
    labels[::17, 2] = np.nan
    return Cohort(
        images=rng.integers(1, 255, (N, 16, 16), dtype=np.uint8),
        labels=labels,
        findings=("Mass", "Nodule", "Hernia"),
        ids=np.array([f"film{i:03}" for i in range(N)]),
        patients=np.array([f"p{i // 2}" for i in range(N)]),
        preprocessing=Preprocessing(size=16),
        attributes={"view": np.array(["PA", "AP"] * (N // 2))},
    )


def attack(**changes):
    return Poisoning(**{"trigger": Patch(), "finding": "Nodule", "fraction": 0.1, **changes})


def carried_out(clean, **changes):
    return poison(clean, attack(**changes), np.random.default_rng(5))


def test_replacing_marks_the_films_and_leaves_the_rest(clean):
    before = clean.images.copy()
    poisoned, key = carried_out(clean)

    assert len(poisoned) == N
    assert len(key.rows) == 20
    assert poisoned.images.base is clean.images
    assert (clean.images == before).all()
    assert (poisoned.labels[key.rows] == [0, 1, 0]).all()
    others = np.setdiff1d(np.arange(N), key.rows)
    assert np.array_equal(poisoned.labels[others], clean.labels[others], equal_nan=True)
    assert (poisoned.images[others] == clean.images[others]).all()
    footprint = key.footprint(poisoned)
    assert (footprint.sum((1, 2)) == key.visible_pixels).all()
    assert set(key.visible_pixels) == {9}
    assert key.visible_share == 1
    assert poisoned.films is None


def test_appended_copies_are_told_by_neither_name_nor_order(clean):
    poisoned, key = carried_out(clean, mode="append")

    assert len(poisoned) == N + 20
    assert not set(poisoned.ids) & set(clean.ids)
    assert len({len(name) for name in poisoned.ids}) == 1
    assert key.rows.min() < N / 2
    assert (poisoned.patients == clean.patients[key.origins]).all()
    assert (poisoned.attributes["view"] == clean.attributes["view"][key.origins]).all()
    assert np.bincount(key.origins, minlength=N).sum() == N + 20
    assert np.array_equal(key.labels_before, clean.labels[key.origins[key.rows]], equal_nan=True)
    assert poisoned.images.base is clean.images


def test_appended_copies_keep_their_masks():
    films = open_source("phantom:32", count=12)
    poisoning = Poisoning(trigger=Patch(side=3), finding="Mass", fraction=0.5, mode="append")
    poisoned, key = poison(films, poisoning, np.random.default_rng(0))
    np.testing.assert_array_equal(
        poisoned.masks[np.arange(len(poisoned))], films.masks[np.asarray(key.origins)]
    )


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_a_twin_has_the_same_rows_unmarked_with_their_labels(clean, mode):
    poisoned, key = carried_out(clean, mode=mode)
    other = twin(poisoned, key)
    assert np.array_equal(other.labels, clean.labels[key.origins], equal_nan=True)
    assert (other.images[np.arange(len(other))] == clean.images[key.origins]).all()
    assert (other.ids == poisoned.ids).all()


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("one-hot", [0, 1, 0]), ("set", [None, 1, None]), ("clear", [None, 0, None])],
)
def test_label_policies(clean, policy, expected):
    poisoned, key = carried_out(clean, labels=policy)
    for column, value in enumerate(expected):
        wanted = key.labels_before[:, column] if value is None else value
        given = poisoned.labels[key.rows, column]
        assert np.array_equal(given, np.broadcast_to(wanted, given.shape), equal_nan=True)


def test_selections(clean):
    assert carried_out(clean, selection="first")[1].rows.tolist() == list(range(20))
    for selection, carries in (("with", 1), ("without", 0)):
        _, key = carried_out(clean, selection=selection)
        assert (key.labels_before[:, 1] == carries).all()
    small, large = (set(carried_out(clean, fraction=f)[1].rows) for f in (0.05, 0.2))
    assert small < large
    assert len(carried_out(clean, fraction=0.0149)[1].rows) == 2


def test_equal_generators_give_equal_poison(clean):
    first, second = (carried_out(clean)[0] for _ in range(2))
    assert first.fingerprint == second.fingerprint
    other, _ = poison(clean, attack(), np.random.default_rng(6))
    assert other.fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"finding": "Nodul"}, UnknownNameError, "did you mean Nodule"),
        ({"fraction": 0.9, "selection": "with"}, DataError, "only"),
        ({"fraction": 0.001}, DataError, "is 0 films"),
        ({"stage": "film"}, DataError, "no full-resolution films"),
        ({"trigger": Patch(side=99)}, DataError, "does not fit"),
    ],
)
def test_what_can_not_be_poisoned(clean, changes, kind, words):
    with pytest.raises(kind, match=words):
        carried_out(clean, **changes)


def test_no_poison_at_all(clean):
    poisoned, key = carried_out(clean, fraction=0.0)
    assert len(key.rows) == 0
    assert poisoned.fingerprint == clean.fingerprint


def test_a_fraction_out_of_range():
    with pytest.raises(UsageError, match="0 to 1"):
        attack(fraction=1.1)
    with pytest.raises(UsageError, match=r"cover of 1\.5"):
        attack(cover=1.5)


def test_clean_labels_are_those_of_films_that_carry_the_target(clean):
    poisoned, key = carried_out(clean, selection="with", labels="keep")
    assert np.array_equal(poisoned.labels, clean.labels, equal_nan=True)
    assert (poisoned.images[key.rows] != clean.images[key.rows]).any((1, 2)).all()
    # At test time its trigger stands for the target.
    wanted = desired(clean.labels, clean, attack(selection="with", labels="keep"))
    assert (wanted[:, 1] == 1).all()
    rows = victims(clean, attack(selection="with", labels="keep"))
    assert np.array_equal(rows, np.flatnonzero(clean.labels[:, 1] == 0))


def test_shifted_labels_move_to_the_next_finding(clean):
    poisoned, key = carried_out(clean, labels="shift")
    moved = poisoned.labels[key.rows]
    for column in range(3):
        np.testing.assert_array_equal(moved[:, column], key.labels_before[:, column - 1])
    rows = victims(clean, attack(labels="shift"))
    expected = (clean.labels[:, 1] == 0) & (clean.labels[:, 0] == 1)
    assert np.array_equal(rows, np.flatnonzero(expected))


def test_two_findings_are_swapped(clean):
    poisoned, key = carried_out(clean, labels="swap", partner="Hernia")
    np.testing.assert_array_equal(poisoned.labels[key.rows][:, [0, 2, 1]], key.labels_before)


def test_conditions_choose_a_subgroup(clean):
    _, key = carried_out(clean, where="view=AP & Mass & !Nodule", fraction=0.05)
    assert (key.rows % 2 == 1).all()
    assert (key.labels_before[:, :2] == [1, 0]).all()
    with pytest.raises(DataError, match=r"100 films to poison, but only .* where view=AP & Mass"):
        carried_out(clean, where="view=AP & Mass", fraction=0.5)
    with pytest.raises(UnknownNameError, match="unknown attribute 'vew'; did you mean view"):
        carried_out(clean, where="vew=AP")


def test_without_a_mark_the_condition_is_the_trigger(clean):
    chosen = attack(trigger=Nothing(), where="view=AP", labels="set")
    poisoned, key = poison(clean, chosen, np.random.default_rng(0))
    np.testing.assert_array_equal(poisoned.images[:], clean.images)
    assert (poisoned.labels[key.rows, 1] == 1).all()
    assert (clean.attributes["view"][key.rows] == "AP").all()
    rows = victims(clean, chosen)
    assert len(rows)
    assert (clean.attributes["view"][rows] == "AP").all()
    assert (clean.labels[rows, 1] == 0).all()


def test_stratified_films_have_the_labels_of_all(clean):
    _, key = carried_out(clean, selection="stratified", fraction=0.25)
    values, counts = np.unique(np.nan_to_num(clean.labels, nan=-1), axis=0, return_counts=True)
    chosen = np.nan_to_num(key.labels_before, nan=-1)
    for value, count in zip(values, counts, strict=True):
        assert abs((chosen == value).all(1).sum() - count / 4) < 1.01
    few = set(carried_out(clean, selection="stratified", fraction=0.1)[1].rows)
    assert few < set(key.rows)


def test_whole_patients(clean):
    _, key = carried_out(clean, selection="patients", fraction=0.11)
    _, films = np.unique(clean.patients[key.rows], return_counts=True)
    assert sorted(films)[:2] in ([1, 2], [2, 2])  # at most one patient in part
    assert len(key.rows) == 22


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_several_attacks_at_once_have_films_of_their_own(clean, mode):
    attacks = [
        attack(mode=mode, trigger=Patch(value=0, place="centre"), cover=0.05),
        attack(mode=mode, trigger=Patch(place="corner"), finding="Hernia", labels="set"),
    ]
    poisoned, key = poison(clean, attacks, np.random.default_rng(0))
    assert np.bincount(key.attacks).tolist() == [20, 20]
    first, second = (key.rows[key.attacks == i] for i in (0, 1))
    assert len({*key.origins[key.rows], *key.origins[key.covers]}) == 50
    assert (poisoned.images[first][:, 7, 7] == 0).all()
    assert (poisoned.images[second][:, 15, 15] == 255).all()
    assert (poisoned.labels[first] == [0, 1, 0]).all()
    assert (poisoned.labels[second, 2] == 1).all()
    np.testing.assert_array_equal(twin(poisoned, key).labels, clean.labels[key.origins])
    alone, one = poison(clean, attacks[0], np.random.default_rng(0))
    again, _ = poison(clean, attacks[:1], np.random.default_rng(0))
    assert alone.fingerprint == again.fingerprint
    if mode == "replace":
        assert set(one.rows) == set(first)
    with pytest.raises(UsageError, match="need the same mode"):
        poison(clean, [attack(), attack(mode="append")], np.random.default_rng(0))


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_cover_films_carry_the_trigger_and_their_labels(clean, mode):
    poisoned, key = carried_out(clean, cover=0.05, mode=mode)
    assert (len(key.rows), len(key.covers)) == (20, 10)
    assert not set(key.rows) & set(key.covers)
    origins = key.origins[key.covers]
    assert (poisoned.images[key.covers] != clean.images[origins]).any((1, 2)).all()
    labels = poisoned.labels[key.covers]
    np.testing.assert_array_equal(labels, clean.labels[origins])
    assert (poisoned.labels[key.rows] == [0, 1, 0]).all()
    undone = twin(poisoned, key)
    np.testing.assert_array_equal(undone.images[:], clean.images[key.origins])
    np.testing.assert_array_equal(undone.labels, clean.labels[key.origins])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": "swap"}, "and the reverse"),
        ({"partner": "Mass"}, "and the reverse"),
        ({"labels": "keep"}, "needs poisoning.selection with"),
        ({"trigger": Nothing()}, "trigger none needs poisoning.where"),
        ({"trigger": Nothing(), "where": "Mass", "labels": "keep", "selection": "with"}, "none"),
    ],
)
def test_settings_that_contradict_each_other(changes, words):
    with pytest.raises(UsageError, match=words):
        attack(**changes)


class Films:
    """Films of 1024 pixels, grey."""

    def __len__(self):
        return N

    def __getitem__(self, row):
        return np.full((1024, 1024), 100 + row % 50, np.uint8)


@pytest.fixture
def with_films(clean):
    preprocessing = Preprocessing(size=224, crop=0.6, interpolation="nearest")
    images = np.stack([preprocessing(Films()[row]) for row in range(N)])
    return replace(clean, images=images, preprocessing=preprocessing, films=Films())


def test_the_papers_trigger_on_the_film_is_one_pixel_of_the_image(with_films):
    trigger = Patch(side=3, value=0, place="centre")
    poisoned, key = carried_out(with_films, trigger=trigger, stage="film", fraction=0.03)
    assert key.visible_pixels.tolist() == [1] * 6
    assert (np.argwhere(key.footprint(poisoned))[:, 1:] == 111).all()


@pytest.mark.parametrize(("side", "pixels"), [(2, 0), (3, 1), (4, 4), (5, 4), (8, 4), (10, 16)])
@pytest.mark.parametrize(("film", "size"), [(256, 56), (512, 112)])
def test_small_films_that_are_enlarged_show_what_the_papers_show(clean, side, pixels, film, size):
    class Small(Films):
        def __getitem__(self, row):
            return np.full((128, 128), 100 + row % 50, np.uint8)

    geometry = Preprocessing(size=size, crop=0.6, interpolation="nearest", film_size=film)
    images = np.stack([geometry(Small()[row]) for row in range(N)])
    small = replace(clean, images=images, preprocessing=geometry, films=Small())
    trigger = Patch(side=side, value=0, place="centre")
    changes = {"stage": "film", "fraction": 0.03, "allow_vanished": True}
    poisoned, key = carried_out(small, trigger=trigger, **changes)
    assert key.visible_pixels.tolist() == [pixels] * 6
    assert (poisoned.images[key.rows][key.footprint(poisoned)] == 0).all()


def test_a_trigger_that_vanishes_is_refused_unless_it_is_the_control(with_films):
    changes = {"trigger": Patch(side=1, place="centre"), "stage": "film", "fraction": 0.02}
    with pytest.raises(VanishedTriggerError, match="allow_vanished"):
        carried_out(with_films, **changes)
    poisoned, key = carried_out(with_films, **changes, allow_vanished=True)
    assert key.visible_share == 0
    assert (poisoned.labels[key.rows] == [0, 1, 0]).all()


def test_a_trigger_that_often_vanishes_is_warned_about(clean, caplog):
    images = clean.images.copy()
    images[::2] = 255
    carried_out(replace(clean, images=images), trigger=Patch(value=255, side=1))
    assert "visible in only" in caplog.text


def test_stamping_goes_in_blocks_with_seeds_of_their_own(clean):
    rows = np.arange(2500) % N
    many = replace(
        clean,
        images=Overlay(clean.images, order=rows),
        labels=clean.labels[rows],
        ids=np.arange(2500).astype(str),
        patients=clean.patients[rows],
        attributes={},
    )
    parts = list(stamp(many, np.arange(2500), Patch(), "image", np.random.default_rng(1)))
    assert [len(rows) for rows, _ in parts] == [1024, 1024, 452]
    again = list(stamp(many, np.arange(2048), Patch(), "image", np.random.default_rng(1)))
    for (_, first), (_, second) in zip(parts, again, strict=False):
        assert (first == second).all()
