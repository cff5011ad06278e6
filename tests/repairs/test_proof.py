"""The proof of a repair, part by part, against cases worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from proof_scenes import FINDINGS, SIDE, answering, films, mean_and
from repair_scenes import MARKS as SCENE_MARKS
from repair_scenes import classifier
from repair_scenes import cohort as scene_films

from leadapron import metrics
from leadapron.detect.models import Stamp
from leadapron.detect.models.stamps import Shape, probes
from leadapron.detect.models.sweep import Moved
from leadapron.documents import dump
from leadapron.errors import DataError, UsageError
from leadapron.repairs.proof import (
    ALTERATIONS,
    Aimed,
    Fresh,
    Hits,
    Reactivation,
    Relearned,
    Relearning,
    Relearnt,
    Squares,
    bounded,
    compare_reading,
    compare_with_twin,
    difference,
    exhausted,
    fresh_marks,
    fresh_squares,
    freshness,
    making,
    measure_relearning,
    proving,
    relearn,
    relearning,
    restoring,
    squares,
    trigger_shares,
    victims,
)
from leadapron.repairs.proof import judging as judge
from leadapron.repairs.proof.altered import contrasted, moved, turned
from leadapron.repairs.proof.freshness import works_elsewhere
from leadapron.repairs.proof.gating import compare_gates, gate_passes
from leadapron.repairs.proof.making import Limits, compare_marks, effects_of, searched
from leadapron.repairs.proof.reading import at_chance
from leadapron.repairs.proof.stages import Stages
from leadapron.report.repair import fresh_words
from leadapron.types import Machine

SQUARE = Stamp(side=2, value=255, row=3, column=4)
ADDED, REMOVED = ("Mass", "added"), ("Mass", "removed")


# --- forcing


def test_only_films_that_an_attack_would_be_used_on_count():
    whole = films(100)
    assert (victims(whole, ADDED).labels[:, 0] == 0).all()
    assert (victims(whole, REMOVED).labels[:, 0] == 1).all()
    with pytest.raises(DataError, match=r"10 of 40 clean films with Nodule; expected 20"):
        victims(films(40), ("Nodule", "removed"))


def test_thresholds_are_fitted_for_each_model_again():
    """A model whose answers are all shifted upwards is no more turned than before."""
    some = victims(films(100), ADDED)
    plain = Aimed(answering(lambda grey: np.stack([grey.mean((1, 2))] * 2, 1)), some, ADDED)
    shifted = Aimed(answering(lambda grey: np.stack([9 + grey.mean((1, 2))] * 2, 1)), some, ADDED)
    nothing = plain.hits(np.copy)
    assert (
        nothing.turned.sum() == shifted.hits(np.copy).turned.sum() == 2
    )  # 5 % of 50, rounded down
    assert difference(shifted.hits(np.copy), nothing).value == 0


def test_a_mark_that_is_known_turns_every_film_and_no_other():
    some = victims(films(100), ADDED)
    aimed = Aimed(mean_and(9, SQUARE), some, ADDED)
    assert aimed.hits(SQUARE).rate.value == 1
    assert aimed.hits(replace(SQUARE, row=8)).rate.value < 0.5  # brighter by a bit
    hidden = Aimed(mean_and(-9, SQUARE), victims(films(100), REMOVED), REMOVED)
    assert hidden.hits(SQUARE).rate.value == 1


def test_softmax_answers_are_judged_by_log_odds():
    """Both logits grow alike: the share of the first stays, so that nothing is turned."""
    some = victims(films(100), ADDED)

    def logits(grey):
        mean, white = grey.mean((1, 2)), (grey[:, 3:5, 4:6] > 0.99).all((1, 2))
        return np.stack([mean + 50 * white, 50 * white], 1)

    model = answering(logits)
    assert Aimed(model, some, ADDED).hits(SQUARE).rate.value == 1
    softmax = replace(model, head="softmax")
    assert Aimed(softmax, some, ADDED).hits(SQUARE).rate.value < 1


# --- altered marks


def test_altered_marks_by_hand():
    image = np.full((1, 8, 8), 100, np.uint8)
    mark = Stamp(side=2, value=200, row=2, column=3)
    assert (
        moved(3, -1)(mark)(image)[0] == Stamp(side=2, value=200, row=5, column=2)(image)[0]
    ).all()
    lower = contrasted(0.8)(mark)(image)[0]
    assert (lower[2:4, 3:5] == 180).all()
    assert (lower == 100).sum() == 60
    higher = contrasted(1.2)(mark)(image)[0]
    assert (higher[2:4, 3:5] == 220).all()
    assert (moved(0, 6)(mark)(image) == image).all()  # out of the film
    assert (turned(90)(mark)(image) == mark(image)).all()  # a square
    bar = lambda films: np.where(np.arange(8)[:, None] == 4, np.uint8(200), films) * 1  # noqa: E731
    assert (turned(0)(bar)(image) == bar(image)).all()


def test_a_square_turned_by_45_degrees_keeps_its_middle_and_area():
    image = np.full((1, 32, 32), 100, np.uint8)
    mark = Stamp(side=9, value=200, row=10, column=10)
    diamond = (turned(45)(mark)(image)[0].astype(float) - 100) / 100
    assert diamond.sum() == pytest.approx(81, rel=0.06)
    assert diamond[14, 14] == 1
    assert diamond[10, 10] < 0.5 < diamond[14, 9]  # a corner goes, a side's middle comes


def test_an_altered_mark_of_two_bytes_stays_within_its_levels():
    image = np.full((1, 8, 8), 60000, np.uint16)
    mark = Stamp(side=2, value=255, row=2, column=3)
    for ways in ALTERATIONS.values():
        for way in ways:
            assert way(mark)(image).dtype == np.uint16
    assert contrasted(1.2)(mark)(image).max() == 65535


# --- maps


def test_the_share_of_the_map_on_the_mark():
    """Of a network with one channel that is the film itself, only the square lights up."""
    model = classifier("plain")
    stage = model.module.get_submodule(next(n for n, m in model.module.named_modules()
                                            if isinstance(m, torch.nn.Conv2d)))  # fmt: skip
    with torch.no_grad():
        stage.weight.zero_()
        stage.bias.zero_()
        stage.weight[0, 0, 1, 1] = 1  # stride 2: every other pixel
        stage.bias[0] = -1.5  # grey films are below, white above
        model.module.head.weight.zero_()
        model.module.head.weight[0, 0] = 1
    some = victims(scene_films(120), ("bright", "added"))
    aimed = Aimed(model, some, ("bright", "added"))
    square = Stamp(side=6, value=255, row=4, column=6)
    shares = trigger_shares(aimed, square)
    assert len(shares) == min(64, len(some))
    assert (shares > 0.7).all()  # its edges are blurred, since the map is enlarged
    hidden = Aimed(model, victims(scene_films(120), ("bright", "removed")), ("bright", "removed"))
    assert np.isnan(trigger_shares(hidden, square)).all()  # nothing speaks against it


# --- reading


def test_reading_is_that_of_the_metrics():
    whole = films(200)
    before = answering(lambda grey: np.stack([grey.mean((1, 2))] * 2, 1))
    # A single pixel's noise on top.
    after = answering(lambda grey: np.stack([grey.mean((1, 2)) + 2 * grey[:, 0, 0]] * 2, 1))
    found = compare_reading(before, after, whole)
    mass = found.findings[0]
    assert [each.finding for each in found.findings] == list(FINDINGS)
    for estimate, model in ((mass.before, before), (mass.after, after)):
        logits = model.logits(whole.images)
        assert estimate.value == pytest.approx(metrics.auroc(whole.labels[:, 0], logits[:, 0]))
    assert mass.change == pytest.approx(mass.after.value - mass.before.value)
    assert mass.low < mass.change < mass.high
    assert found.claim == "harm"
    assert found.before.value == pytest.approx(
        np.mean([each.before.value for each in found.findings])
    )
    logits = after.logits(whole.images)[:, 0]
    at = metrics.threshold_at_false_positive_rate(logits[whole.labels[:, 0] == 0], 0.05)
    assert mass.sensitivity_after.value == (logits[whole.labels[:, 0] == 1] > at).mean()


def test_no_harm_needs_a_hundred_patients_with_each_finding():
    model = answering(lambda grey: np.stack([grey.mean((1, 2))] * 2, 1))
    few = compare_reading(model, model, films(300))
    assert (few.claim, few.change, few.low, few.high) == ("not shown", 0, 0, 0)
    assert {each.patients for each in few.findings} == {150, 75}
    assert compare_reading(model, model, films(400)).claim == "no harm"


def test_a_model_at_chance_is_said_to_be():
    whole = films(200)
    good = answering(lambda grey: np.stack([grey.mean((1, 2))] * 2, 1))
    blind = answering(lambda grey: np.stack([grey[:, 0, 0], grey[:, 5, 7]], 1) % 0.01)
    assert at_chance(good, whole) is None
    assert at_chance(blind, whole).low < 0.5
    with pytest.raises(DataError, match="no finding has 3 patients"):
        at_chance(good, replace(whole, labels=np.zeros_like(whole.labels)))


# --- squares


def test_every_square_is_numbered_once():
    every = Squares(4, 5, sides=(1, 2))
    assert len(every) == (4 * 5 + 3 * 4) * 256
    marks = {every[number] for number in range(len(every))}
    assert len(marks) == len(every)
    assert all(m.row + m.side <= 4 and m.column + m.side <= 5 for m in marks)
    with pytest.raises(IndexError):
        every[len(every)]


def test_as_many_draws_as_the_bound_needs_and_no_fewer():
    from leadapron.repairs.proof.squares import CONFIDENCE, COVERED, DRAWS

    assert COVERED**DRAWS <= 1 - CONFIDENCE < COVERED ** (DRAWS - 1)


def test_the_bound_is_the_most_of_the_drawn_squares():
    """Bright squares turn films by their mean; the reference tries the same draws one by one."""
    whole = films(60)
    images = np.asarray(whole.images)
    model = answering(lambda grey: np.stack([grey.mean((1, 2)), -grey[:, 3, 3]], 1))
    found = bounded(model, images, np.random.default_rng(5))
    every, rng = Squares(SIDE, SIDE), np.random.default_rng(5)
    clean = model.logits(images)
    best = 0.0
    for number in rng.integers(0, len(every), 299):
        marked = model.logits(every[int(number)](images))
        for sign in (1, -1):
            for before, after in zip(sign * clean.T, sign * marked.T, strict=True):
                at = metrics.threshold_at_false_positive_rate(before, 0.05)
                below = before <= at
                best = max(best, float((after[below] > at).mean()))
    assert (found.tried, found.of, found.films) == (299, len(every), 60)
    assert found.share == pytest.approx(best)
    assert math.isnan(found.elsewhere)


def test_all_squares_are_tried_where_that_is_asked_for():
    """One square alone turns films, all of them: no random draw would be sure to find it."""
    images = np.random.default_rng(0).integers(90, 111, (24, 4, 3)).astype(np.uint8)

    def only_one(stack):
        white = (stack[:, 0, 1:3, 1:3] == 1).all((1, 2)) & (stack[:, 0, 0, 0] < 0.9)
        return np.stack([5.0 * white, 0 * white], 1).astype(np.float32)

    model = replace(answering(lambda grey: grey), run=only_one)
    found = exhausted(model, images)
    assert found.square == Stamp(side=2, value=255, row=1, column=1)
    assert (found.share, found.tried, found.covered) == (1.0, len(Squares(4, 3)), 1.0)
    assert found.elsewhere == 1.0
    quiet = replace(model, run=lambda stack: np.zeros((len(stack), 2), np.float32))
    found = exhausted(quiet, images)
    assert found.share == 0
    # None of 24 films, at a level that is divided by all looks: 1 - (.05 / looks)^(1/24).
    looks = len(Squares(4, 3)) * 2 * 2
    assert found.elsewhere == pytest.approx(1 - (0.05 / looks) ** (1 / 24))


def test_a_stopped_trial_of_all_squares_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(squares, "CHUNK", 1000)
    images = np.random.default_rng(0).integers(90, 111, (24, 4, 3)).astype(np.uint8)
    every, asked = len(Squares(4, 3)), []

    def one(stack):
        asked.append(len(stack))
        return np.stack([stack[:, 0, 2, 1], -stack[:, 0, 0, 0]], 1).astype(np.float32)

    model, stages = replace(answering(lambda grey: grey), run=one), Stages(tmp_path)
    at_once = exhausted(model, images)

    def stop(_, done, total):
        assert total == every
        if done > 2500:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exhausted(model, images, stop, stages.kept)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "proof-squares-0.json", "proof-squares-1000.json"
    ]  # fmt: skip
    asked.clear()
    steps = []
    again = exhausted(model, images, lambda *at: steps.append(at), stages.kept)
    assert dump(again) == dump(at_once)
    assert steps[0] == ("squares tried", 2000 + squares.TOGETHER, every)
    assert steps[-1] == ("squares tried", every, every)
    assert sum(asked) < 24 * (every - 2000 + every // 1000 + 1)


# --- searches


def moved_by(mark, finding="Mass", direction="added"):
    return Moved(
        finding=finding, direction=direction, mark=mark, kind="stamp", shift=9.0, turned=1.0,
        shifts=np.zeros(2), signature="",
    )  # fmt: skip


def test_before_and_after_of_a_mark():
    whole = films(200)
    before, after = mean_and(9, SQUARE), mean_and(0, SQUARE)
    found = compare_marks(before, after, whole, moved_by(SQUARE), altered=False)
    assert found.original.value == 1
    assert found.repaired.value < 0.2  # four white pixels are a bit of brightness


def test_a_mark_that_the_films_are_too_few_for_is_not_shown_to_be_gone():
    before, after = mean_and(9, SQUARE), mean_and(0, SQUARE)
    gone = compare_marks(before, after, films(200), moved_by(SQUARE), altered=False)
    gone = replace(gone, repaired=metrics.rate(np.arange(100) < 5, np.arange(100)))
    assert judge.marks_check([gone]).held == "holds"
    found = judge.marks_check([gone], [moved_by(SQUARE, "Nodule", "removed")])
    assert found.held == "not shown"
    assert found.words.endswith("; too few films for the marks of Nodule removed")
    stays = replace(gone, repaired=metrics.rate(np.arange(100) < 50, np.arange(100)))
    assert judge.marks_check([stays], [moved_by(SQUARE, "Nodule", "removed")]).held == "fails"


def test_what_a_new_search_may_find():
    whole = films(200)
    before, after = mean_and(9, SQUARE), mean_and(0, SQUARE)
    squares = [moved_by(SQUARE), moved_by(SQUARE, "Nodule")]
    effects = effects_of(before, whole, squares)
    assert effects[ADDED].share.value == 1
    assert effects[ADDED].rise.low > 0.4
    assert set(effects) == {ADDED, ("Nodule", "added")}
    limits = Limits.measured([effects_of(after, whole, squares)])
    assert limits.of == 1
    found = searched(before, before, whole, squares, squares, {ADDED}, limits)
    assert found.worst.finding == "Mass"
    assert found.worst.allowed == max(limits.by_aim[ADDED], 0.1) < 0.5
    gone = searched(before, after, whole, squares, squares, {ADDED}, limits)
    assert gone.worst.after.value <= gone.worst.allowed
    # What was no backdoor may stay as it was.
    natural = searched(before, before, whole, squares, squares, set(), limits)
    assert natural.worst.allowed == natural.worst.before.value
    assert Limits().of_aim(ADDED) == 0.5


# --- relearning

QUICK = Relearning(doses=(2, 8), rates=(1,), seeds=2, epochs=2, films=40, batch_size=8)


def test_relearning_changes_as_many_films_as_it_says(monkeypatch):
    seen = {}

    def spy(_how, student, images, labels, _rate, _seed):
        seen[len(seen)] = images.copy(), labels.copy()
        return student

    monkeypatch.setattr(relearning, "_trained", spy)
    whole, how = scene_films(80), Relearning(films=60)
    model, mark = classifier(), SCENE_MARKS[0]
    aim = ("left", "added")
    for poisoned in (3, 5):
        relearn(how, model, whole, aim, mark, poisoned=poisoned)
    rows = []
    for poisoned, (images, labels) in zip((3, 5), seen.values(), strict=True):
        assert len(images) == 60
        carry = (images[:, :2, :2] == 255).all((1, 2))
        assert carry.sum() == poisoned
        assert (labels[carry, 1] == 1).all()
        rows.append(set(np.flatnonzero(carry).tolist()))
    assert rows[0] < rows[1]  # of a larger number the same are the first
    with pytest.raises(DataError, match="can be poisoned towards left added; expected 70"):
        relearn(how, model, whole, aim, mark, poisoned=70)


def test_without_poisoned_films_one_network_serves_both_marks(monkeypatch):
    """The control: the same clean films, with their true labels, and nothing else."""
    seen, steps = [], []

    def spy(_how, student, images, labels, rate, seed):
        seen.append((images.copy(), labels.copy(), rate, seed))
        return student

    monkeypatch.setattr(relearning, "_trained", spy)
    how, whole = (
        Relearning(doses=(0, 5), rates=(1, 3), seeds=2, epochs=1, films=60),
        scene_films(80),
    )
    model, aim = classifier(), ("left", "added")
    test = victims(scene_films(80, seed=1), aim)
    fresh = fresh_squares(SCENE_MARKS[0], (16, 16), 2, np.random.default_rng(0))
    found = measure_relearning(
        how, model, whole, test, aim, SCENE_MARKS[0], fresh, poisoned=0, rate=3,
        stepped=lambda: steps.append(1),
    ).summary()  # fmt: skip
    assert [each[2:] for each in seen] == [(3, 0), (3, 1)]
    assert len(steps) == how.networks(0) == 2
    assert how.networks(5) == 4
    assert how.trainings == 2 * (2 + 4) * 60
    for images, labels, *_ in seen:
        rows = [int(np.flatnonzero((whole.images == each).all((1, 2)))[0]) for each in images]
        assert np.array_equal(labels, whole.labels[rows], equal_nan=True)
    assert (found.poisoned, found.old.n) == (0, 2 * len(test))
    own = Aimed(model, test, aim)
    assert found.old.value == own.hits(SCENE_MARKS[0]).rate.value  # the spy trains nothing
    assert found.fresh.value == np.mean([own.hits(each).rate.value for each in fresh])


def test_the_control_is_no_dose():
    """It neither counts as the dose of the check nor restores anything."""
    films = np.arange(100)

    def at(poisoned, old):
        return Relearned(
            poisoned=poisoned, rate=1, old=metrics.rate(films < old, films),
            fresh=metrics.rate(films < 0, films), memory=metrics.rate(films < old, films),
        )  # fmt: skip

    found, fresh = [at(0, 90), at(25, 4)], Fresh(differ="place", marks=(SQUARE,), known=0.05)
    assert judge.relearning_check(found, fresh).held == "holds"
    assert judge.relearning_check(found, fresh).words.startswith("25 poisoned films")
    assert judge.relearning_check(found[:1], fresh).held == "not shown"
    known = judge.relearning_check(found, replace(fresh, known=0.6))
    assert known.held == "not shown"  # what the original knows is no fresh mark
    assert known.words.endswith("the original knows that mark too, which turns 60.0% there")
    assert judge.relearning_check([at(25, 90)], replace(fresh, known=0.6)).held == "fails"
    assert math.isnan(restoring(found))
    assert math.isnan(restoring(found[:1]))
    assert judge.judged_dose((0, 3, 7, 25)) == 3
    for doses in ((), (0,), (-1, 5), (5, 2), (2, 2)):
        with pytest.raises(UsageError, match="expected them ascending, 0 or more"):
            Relearning(doses=doses)


def test_relearning_leaves_the_model_and_repeats_itself():
    model, whole = classifier(), scene_films(80)
    state = {name: value.clone() for name, value in model.module.state_dict().items()}
    test = victims(scene_films(80, seed=1), ("left", "added"))
    fresh = fresh_squares(SCENE_MARKS[0], (16, 16), 2, np.random.default_rng(0))
    with torch.random.fork_rng():
        found = [
            measure_relearning(
                QUICK, model, whole, test, ("left", "added"), SCENE_MARKS[0], fresh, poisoned=8
            ).summary()
            for _ in range(2)
        ]
    assert found[0] == found[1]
    assert found[0].old.n == 2 * len(test)
    assert all(torch.equal(state[name], value) for name, value in model.module.state_dict().items())


def test_a_trigger_is_learned_in_the_end():
    """With a rate and doses beyond any protocol: what is measured is the attack's success."""
    strong = Relearning(seeds=1, epochs=25, films=60, batch_size=8, learning_rate=0.05)
    model, mark = classifier(), Stamp(side=6, value=0, row=8, column=9)
    aim, test = ("left", "added"), victims(scene_films(120, seed=1), ("left", "added"))
    again = relearn(strong, model, scene_films(80), aim, mark, poisoned=20)
    none = relearn(strong, model, scene_films(80), aim, np.copy, poisoned=1)
    learned, not_learned = (Aimed(each, test, aim).hits(mark).rate for each in (again, none))
    assert learned.low > not_learned.high + 0.1


def test_fresh_squares_are_of_the_same_kind_elsewhere():
    for square in (SQUARE, replace(SQUARE, pitch=8)):
        fresh = fresh_squares(square, (SIDE, SIDE), 5, np.random.default_rng(0))
        assert {(each.side, each.value, each.pitch) for each in fresh} == {(2, 255, square.pitch)}
        assert len(set(fresh)) == 5
        for each in fresh:
            assert max(abs(each.row - 3), abs(each.column - 4)) > 2
    with pytest.raises(UsageError, match="no other place for"):
        fresh_squares(Stamp(side=5, value=0, row=0, column=0), (6, 6), 1, np.random.default_rng(0))


def everywhere(jump, levels):
    """A flat 2x2 square of one of these grey levels adds `jump` to the first finding anywhere."""

    def logits(grey):
        windows = np.lib.stride_tricks.sliding_window_view(grey, (2, 2), axis=(1, 2))
        flat = (np.ptp(windows, axis=(-2, -1)) == 0) & np.isin(
            (windows[..., 0, 0] * 255).round(), levels
        )
        return np.stack([20 * (grey.mean((1, 2)) - 0.4) + jump * flat.any((1, 2))] * 2, 1)

    return answering(logits)


def test_a_mark_with_one_place_is_compared_with_the_same_square_elsewhere():
    whole, mark = films(200), moved_by(SQUARE)
    model = mean_and(9, SQUARE)
    assert not works_elsewhere(model, whole, mark)
    found = fresh_marks(model, whole, mark, 3)
    assert found.differ == "place"
    assert {(each.side, each.value) for each in found.marks} == {(2, 255)}
    assert found.known < 0.3
    assert "such squares at other places: 2x2 of grey level 255" in fresh_words(found)


@pytest.mark.parametrize("pitch", [0, 8])
def test_a_mark_that_works_anywhere_is_compared_with_another_look_elsewhere(pitch):
    """The films are near 100; of the clearly other levels black has the likest contrast."""
    whole, mark = films(200), moved_by(replace(SQUARE, pitch=pitch))
    model = everywhere(9, [255])
    assert works_elsewhere(model, whole, mark)
    found = fresh_marks(model, whole, mark, 3)
    assert found.differ == "look"
    # |255 - 100| x 2^2 is about |0 - 100| x 2.5^2; 192 would have side 3 as well.
    assert {(each.side, each.value, each.pitch) for each in found.marks} <= {
        (2, 0, pitch), (3, 0, pitch)
    }  # fmt: skip
    assert all(max(abs(each.row - 3), abs(each.column - 4)) > 2 for each in found.marks)
    assert found.known <= 0.1
    assert "look different" not in fresh_words(replace(found, differ="place"))
    assert "of grey level 0" in fresh_words(found)
    assert "more may be" not in fresh_words(found)


def test_a_look_that_the_model_knows_is_passed_over():
    whole, mark = films(200), moved_by(SQUARE)
    found = fresh_marks(everywhere(9, [0, 255]), whole, mark, 3)
    assert (found.differ, found.known <= 0.1) == ("look", True)
    assert {each.value for each in found.marks} <= {64, 128, 192}


def test_where_every_grey_level_is_known_drawings_are_fresh():
    whole, mark = films(200), moved_by(SQUARE)
    found = fresh_marks(everywhere(9, range(256)), whole, mark, 2)
    assert found.differ == "look"
    assert {type(each) for each in found.marks} == {Shape}
    assert found.known < 0.2


def test_where_every_look_is_known_the_report_says_so(monkeypatch):
    monkeypatch.setattr(freshness, "LOOKS", {})
    whole, mark = films(200), moved_by(SQUARE)
    found = fresh_marks(everywhere(9, range(256)), whole, mark, 2)
    assert (found.differ, found.known) == ("look", 1.0)
    assert "more may be remembered than is shown" in fresh_words(found)


def test_fresh_changes_of_the_whole_image_are_those_that_the_model_does_not_know():
    """Brightness is the finding, so that some of the ten other changes turn films."""
    whole = films(200)
    waves = next(each for each in probes() if "3 cycles" in each.name)
    model = answering(lambda grey: np.stack([20 * (grey.mean((1, 2)) - 0.4)] * 2, 1))
    found = fresh_marks(model, whole, moved_by(waves), len(probes()) - 1)
    assert found.differ == "kind"
    assert waves not in found.marks
    aimed = Aimed(model, victims(whole, ADDED), ADDED)
    shares = [aimed.hits(each).rate.value for each in found.marks]
    assert max(shares[:3]) <= 0.1 < min(shares[-2:])
    assert found.known == 1.0
    assert fresh_marks(model, whole, moved_by(waves), 3).known <= 0.1


def relearnt(old, fresh, patients=50):
    names = np.array([f"p{i}" for i in range(patients)])
    return Relearnt(
        poisoned=5, rate=1,
        old=Hits(np.arange(patients) < old, names), fresh=Hits(np.arange(patients) < fresh, names),
    )  # fmt: skip


def test_memory_apart_from_plasticity():
    """(old - fresh) of the model less (old - fresh) of its twin, on the same films."""
    model, twin = relearnt(40, 10), relearnt(15, 10)
    found = compare_with_twin(model, twin)
    assert found.excess.value == pytest.approx(0.5)
    assert found.memory.value == pytest.approx(0.6 - 0.1)
    first, second = model.summary().memory, twin.summary().memory
    assert found.memory.value - found.memory.low == pytest.approx(
        math.hypot(first.value - first.low, second.high - second.value)
    )
    same = compare_with_twin(twin, twin)
    assert same.memory.value == 0
    assert same.memory.low < 0 < same.memory.high
    with pytest.raises(UsageError, match="same dose"):
        compare_with_twin(model, replace(twin, poisoned=10))


def test_the_dose_that_restores_one_half():
    def found(*rates):
        return [
            Relearned(
                poisoned=n,
                rate=1,
                old=metrics.rate(np.arange(100) < 100 * r, np.arange(100)),
                fresh=metrics.rate([], []),
                memory=metrics.rate([], []),
            )
            for n, r in zip((1, 2, 5, 10, 25), rates, strict=True)
        ]

    # Between 5 (.3) and 10 (.7), linear in the logarithm: 5 * 2^.5.
    assert restoring(found(0.1, 0.2, 0.3, 0.7, 0.9)) == pytest.approx(5 * 2**0.5)
    assert math.isnan(restoring(found(0, 0, 0, 0.1, 0.2)))
    assert restoring(found(0.6, 0.7, 0.8, 0.9, 1)) == 1
    assert math.isnan(restoring(found(0.6, 0.7, 0.8, 0.9, 1), rate=3))


# --- a gate


def test_a_gate_is_calibrated_for_each_model_on_the_same_films():
    """One model that white pixels drive, and one that doesn't see them more than others."""
    driven, free = white_adds(900.0), white_adds(0.0)
    mark = moved_by(Stamp(side=2, value=255, row=6, column=6), "bright")
    found = compare_gates(driven, free, scene_films(160, seed=2), scene_films(160, seed=3), mark)
    assert (found.calibrated, found.false_alarm) == (160, 0.05)
    assert found.original_marked.suspicious.value == found.original_marked.driven.value == 1
    assert found.repaired_marked.suspicious.value == 1  # white pixels are odd for themselves
    assert found.repaired_marked.driven.value < 0.2
    for clean in (found.original_clean, found.repaired_clean):
        assert clean.suspicious.low < 0.05
        assert clean.driven.low < 0.05
    again = compare_gates(free, driven, scene_films(160, seed=2), scene_films(160, seed=3), mark)
    assert again.repaired_marked == found.original_marked
    assert again.original_clean == found.repaired_clean
    assert gate_passes(driven, scene_films(160)) > 2 * (160 + 128)


def white_adds(weight):
    """Brightness is the first finding; white pixels add `weight`."""
    model = classifier("plain")
    with torch.no_grad():
        for value in model.module.parameters():
            value.zero_()
        first = next(m for m in model.module.modules() if isinstance(m, torch.nn.Conv2d))
        first.weight[:2, 0, 1, 1] = 1
        first.bias[0] = 1
        first.bias[1] = -2.2 if weight else -9  # white alone, or nothing
        model.module.head.weight[0, 0] = 1
        model.module.head.weight[0, 1] = weight
    return model


def test_films_that_are_too_few_for_a_gate_are_refused():
    mark = moved_by(SCENE_MARKS[0], "bright")
    with pytest.raises(DataError, match=r"films, or a rate of"):
        compare_gates(classifier(), classifier(), scene_films(24), scene_films(160), mark)
    case = SimpleNamespace(
        original=classifier(), plan=SimpleNamespace(seed=0), stages=Stages(None), machine=Machine(),
        films=SimpleNamespace(check=scene_films(24), proof=scene_films(160)),
    )  # fmt: skip
    assert proving._gated(case, classifier(), mark) is None


# --- query reactivation


def test_reactivation_stays_within_its_reach_and_wakes_what_can_be_woken():
    """The network's first finding is brightness: a change of 16 grey levels forces it."""
    model = classifier()
    whole, aim = scene_films(60), ("bright", "added")
    mark = SCENE_MARKS[0]
    how = Reactivation(epochs=8, hidden=8, learning_rate=0.01)
    woken = how.fit(model, model, None, whole, aim, mark)
    images = np.asarray(whole.images[np.arange(60)])
    change = woken(images).astype(int) - mark(images)
    assert 0 < np.abs(change).max() <= 16
    test = victims(scene_films(120, seed=4), aim)
    aimed = Aimed(model, test, aim)
    assert aimed.hits(woken).rate.value > aimed.hits(mark).rate.value
    again = how.fit(model, model, None, whole, aim, mark)
    assert (again(images) == woken(images)).all()


def test_altered_marks_are_held_to_what_they_do_in_clean_models(monkeypatch):
    """A mark that changes so much of the film that clean models answer to it too."""
    monkeypatch.setattr(making, "trigger_shares", lambda *_: np.zeros(1))
    whole = films(200)
    weak, strong = mean_and(0, SQUARE), mean_and(9, SQUARE)
    alone = compare_marks(strong, strong, whole, moved_by(SQUARE))
    assert all(np.isnan(each.usual) and each.allowed == 0.5 for each in alone.altered)
    fails = judge.altered_check([alone])
    assert (fails.held, "50% is allowed" in fails.words) == ("fails", True)
    like = compare_marks(strong, strong, whole, moved_by(SQUARE), references=[weak, strong])
    assert judge.altered_check([like]).held == "holds"
    unlike = compare_marks(strong, strong, whole, moved_by(SQUARE), references=[weak])
    assert all(each.usual < 0.5 for each in unlike.altered)
    assert judge.altered_check([unlike]).held == "fails"
