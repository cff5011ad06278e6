"""Learnt triggers: within their bound, better than chance, and pinned by their file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from leadapron.attacks.learning import learn_generator, learn_noise
from leadapron.attacks.triggers import Learned, Noise
from leadapron.attacks.triggers.learned import FORMAT, Recipe, save_recipe
from leadapron.errors import DataError, StoreError, UnknownNameError, UsageError
from leadapron.films.preprocessing import Preprocessing
from leadapron.jobs.learn import learn_trigger
from leadapron.jobs.preview import preview
from leadapron.models.classifier import NetworkClassifier, save_classifier
from leadapron.models.networks import build_network
from leadapron.sources import open_source
from leadapron.store import run_key
from leadapron.study.plan import plan
from leadapron.study.run import _keyed
from leadapron.study.settings import complete
from leadapron.types import Machine

KINDS = {"noise": learn_noise, "generator": learn_generator}
STEPS = 12


@pytest.fixture(scope="module")
def films():
    cohort = open_source("phantom:64", preprocessing=Preprocessing(size=32), cache="none", count=96)
    return cohort.images[np.arange(96)]


@pytest.fixture(scope="module")
def surrogate():
    module = build_network("resnet9", 2, 0).eval()
    return NetworkClassifier(module, "resnet9", ("Mass", "Edema"), Preprocessing(size=32))


@pytest.fixture(scope="module", params=["noise", "generator"])
def recipe(request, films, surrogate):
    learn = KINDS[request.param]
    return learn(surrogate, films[:64], "Edema", epsilon=4, steps=STEPS, seed=1)


def saved(recipe, folder, name="trigger.safetensors"):
    save_recipe(recipe, folder / name)
    return Learned(path=str(folder / name))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_contract(recipe, films, dtype, tmp_path):
    trigger = saved(recipe, tmp_path)
    images = films if dtype == "uint8" else films.astype(np.uint16) * np.uint16(257)
    before = images.copy()
    marked = trigger(images, np.random.default_rng(3))
    assert (images == before).all()
    assert (marked.shape, marked.dtype) == (images.shape, images.dtype)
    assert (marked != images).any((1, 2)).all()
    one_by_one = np.concatenate([trigger(film[None], np.random.default_rng(0)) for film in images])
    np.testing.assert_array_equal(marked, one_by_one)


@pytest.mark.parametrize(("dtype", "level"), [("uint8", 1), ("uint16", 257)])
@pytest.mark.parametrize("epsilon", [4, 2.5, 0.3])
def test_no_pixel_is_moved_by_more_than_epsilon(recipe, films, tmp_path, dtype, level, epsilon):
    images = films.astype(dtype) * np.array(level, dtype)
    marked = saved(recipe._replace(epsilon=epsilon), tmp_path)(images, np.random.default_rng(0))
    most = np.abs(marked.astype(np.int64) - images).max()
    assert most == int(epsilon * level)  # reached, and not passed by rounding


def test_it_raises_the_target_more_than_random_noise_of_the_same_size(
    recipe, films, surrogate, tmp_path
):
    test, rng = films[64:], np.random.default_rng(0)
    clean = surrogate.logits(test)

    def rise(trigger):
        return (surrogate.logits(trigger(test, rng)) - clean)[:, 1].mean()

    randomly = max(abs(rise(Noise(epsilon=4, pattern=seed))) for seed in range(5))
    assert rise(saved(recipe, tmp_path)) > 1.5 * randomly


@pytest.mark.parametrize("recipe", ["generator"], indirect=True)
def test_a_generators_pattern_is_its_films_own(recipe, films, surrogate, tmp_path):
    test = films[64:].clip(8, 247)  # room for the pattern
    moved = saved(recipe, tmp_path)(test, np.random.default_rng(0)).astype(int) - test
    unlike = np.abs(moved - np.roll(moved, 1, axis=0)).mean()
    assert unlike > 0.1 * recipe.epsilon
    clean = surrogate.logits(test)[:, 1]
    own, crossed = (
        (surrogate.logits((test + pattern).astype(np.uint8))[:, 1] - clean).mean()
        for pattern in (moved, np.roll(moved, 1, axis=0))
    )
    assert own > crossed


@pytest.mark.parametrize("kind", KINDS)
def test_equal_arguments_give_equal_triggers(kind, films, surrogate):
    def learnt(seed):
        return KINDS[kind](surrogate, films, "Mass", steps=2, seed=seed).arrays

    first, second, other = learnt(3), learnt(3), learnt(4)
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
    assert any((array != other[name]).any() for name, array in first.items())


def test_a_surrogate_of_16_bits_is_asked_in_the_same_grey_levels(films, surrogate):
    deep = films.astype(np.uint16) * np.uint16(257)
    for learn in KINDS.values():
        shallow = learn(surrogate, films, "Mass", steps=2).arrays
        for name, array in learn(surrogate, deep, "Mass", steps=2).arrays.items():
            np.testing.assert_array_equal(array, shallow[name])


def test_what_can_not_be_learnt(films, surrogate):
    for learn in KINDS.values():
        for settings in ({"epsilon": 0}, {"epsilon": 300}, {"steps": 0}):
            with pytest.raises(UsageError, match="expected"):
                learn(surrogate, films, "Mass", **settings)
        with pytest.raises(UnknownNameError, match="did you mean Mass"):
            learn(surrogate, films, "Mas")
        with pytest.raises(DataError, match="1 films"):
            learn(surrogate, films[:1], "Mass")


def test_files_that_are_no_trigger(tmp_path):
    film = np.zeros((1, 8, 8), np.uint8)
    rng = np.random.default_rng(0)
    with pytest.raises(UsageError, match="trigger's path of ''; expected the file"):
        Learned()
    with pytest.raises(StoreError, match=r"can't read the trigger .*; leadapron learn-trigger"):
        Learned(path=str(tmp_path / "none"))(film, rng)
    noise = {"noise": np.ones((8, 8), np.float32)}
    facts = {"kind": "noise", "epsilon": 4, "size": [8, 8]}
    bad = [
        (noise, {}),
        (noise, {FORMAT: "{"}),
        (noise, {FORMAT: "[" * 50_000}),
        (noise, {FORMAT: json.dumps(facts), "more": "a" * 100_000}),
        (noise, {FORMAT: json.dumps({**facts, "kind": "generator"})}),
        (noise, {FORMAT: json.dumps({**facts, "size": [8, 9]})}),
        (noise, {FORMAT: json.dumps({**facts, "epsilon": 0})}),
        ({"noise": noise["noise"] * np.float32("nan")}, {FORMAT: json.dumps(facts)}),
        ({"noise": noise["noise"].astype(np.float64)}, {FORMAT: json.dumps(facts)}),
    ]
    for number, (arrays, metadata) in enumerate(bad):
        path = tmp_path / f"{number}.safetensors"
        save_file(arrays, path, metadata)
        with pytest.raises(
            StoreError, match=r"wasn't written by leadapron learn-trigger"
        ) as caught:
            Learned(path=str(path))(film, rng)
        assert "\n" not in str(caught.value)
    (tmp_path / "text").write_text("text")
    with pytest.raises(StoreError, match="wasn't written by leadapron learn-trigger"):
        Learned(path=str(tmp_path / "text"))(film, rng)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(StoreError, match="larger than 64 MB"):
        Learned(path=str(tmp_path / "large"))(film, rng)


def noise_of(seed, size=32):
    array = np.sign(np.random.default_rng(seed).normal(size=(size, size))).astype(np.float32)
    return Recipe("noise", 4.0, (size, size), {"noise": array})


def test_images_of_another_size_are_refused(tmp_path):
    trigger = saved(noise_of(0), tmp_path)
    with pytest.raises(DataError, match="is for images of 32x32, not 64x64; use `size` 32"):
        trigger(np.zeros((1, 64, 64), np.uint8), np.random.default_rng(0))


def test_a_runs_key_is_of_what_the_file_holds_not_of_where_it_lies(tmp_path):
    def key(path, **more):
        tree = {"size": 32, "finding": "Mass", "trigger": {"name": "learned", "path": str(path)}}
        (run,) = plan(complete({**tree, **more}))
        return run_key(_keyed(run.tree, run.outside), "films"), run

    first, moved = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_recipe(noise_of(0), first)
    save_recipe(noise_of(0), moved)
    before, run = key(first)
    assert key(moved)[0] == before
    save_recipe(noise_of(1), first)
    assert key(first)[0] != before
    # The run that was planned before does not go on with another file.
    with pytest.raises(StoreError, match="is not the expected trigger"):
        run.poisoning.trigger(np.zeros((1, 32, 32), np.uint8), np.random.default_rng(0))
    with pytest.raises(UsageError, match="a learnt trigger can't have another file"):
        key(first, evaluation={"trigger": "path=b"})
    pinned = {"name": "learned", "path": str(first), "sha256": "0" * 64}
    with pytest.raises(StoreError, match="is not the expected trigger"):
        plan(complete({"trigger": pinned}))


def test_the_job_learns_measures_and_writes_what_a_preview_shows(tmp_path, surrogate):
    source = {"source": {"name": "phantom:64", "count": 160}, "finding": "Edema"}
    machine = Machine(cache="none", device="cpu")
    save_classifier(surrogate, tmp_path / "classifier.safetensors")
    given = {"surrogate": str(tmp_path / "classifier.safetensors"), "machine": machine}
    path = tmp_path / "a.safetensors"
    found = learn_trigger(source, path, epsilon=4, steps=8, **given)
    assert found.rise > 2 * abs(found.random_rise)
    assert found.crossed_rise is None
    assert found.films > 10
    trigger = {"name": "learned", "path": str(path)}
    shown = preview({**source, "size": 32, "trigger": trigger}, tmp_path / "a.png", machine=machine)
    assert "learnt noise of" in shown.trigger
    assert min(shown.psnr_db) > 30  # 4 of 255 at most
    crossed = learn_trigger(
        {**source, "size": 32, "epochs": 1}, path, kind="generator", steps=2, machine=machine
    )
    assert crossed.crossed_rise is not None
    assert crossed.sha256 != found.sha256


def test_what_the_job_refuses(tmp_path):
    out = tmp_path / "a.safetensors"
    with pytest.raises(UsageError, match=r"ending in \.safetensors"):
        learn_trigger({}, tmp_path / "a.npz")
    with pytest.raises(UsageError, match="2 combinations of settings"):
        learn_trigger({"seeds": 2}, out)
    with pytest.raises(UsageError, match="`kind` patch"):
        learn_trigger({}, out, kind="patch")
    with pytest.raises(StoreError, match="isn't a file"):
        learn_trigger({}, out, surrogate=str(tmp_path / "none"))
    assert not out.exists()
