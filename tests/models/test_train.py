"""Training: repeatable, resumable, and it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from leadapron import metrics
from leadapron.attacks.poisoning import Poisoning, poison, twin
from leadapron.attacks.triggers import Patch
from leadapron.errors import DataError, StoreError, UnknownNameError, UsageError
from leadapron.explainers import class_activation
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.models import training as module
from leadapron.models.classifier import save_classifier
from leadapron.models.training import LOSSES, Disguise, Network, Training, disguise_loss, train
from leadapron.sources import open_source

CPU = {"device": "cpu", "precision": "fp32"}
SMALL = Training(epochs=3, batch_size=8)
TIMES = ("seconds", "films_per_second")


def toy(n, seed=0, side=16):
    """Noise with a bright quadrant (or not), and one finding that nothing shows."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 160, (n, side, side), np.uint8)
    labels = rng.integers(0, 2, (n, 2)).astype(np.float32)
    images[labels[:, 0] == 1, : side // 2, : side // 2] += 40
    names = np.array([f"{seed}-{i}" for i in range(n)])
    return Cohort(images, labels, ("bright", "nothing"), names, names, Preprocessing(size=side))


@pytest.fixture(scope="module")
def films():
    cohort = open_source("phantom:32", count=32)
    return cohort.take(np.arange(22)), cohort.take(np.arange(22, 32))


def weights(classifier):
    return {name: value.clone() for name, value in classifier.module.state_dict().items()}


def equal(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


def timeless(history):
    return [{k: v for k, v in entry.items() if k not in TIMES} for entry in history]


def test_equal_arguments_give_equal_weights(films):
    before = torch.random.get_rng_state()
    first, history = train(*films, training=SMALL, seed=3, **CPU)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)  # nothing depends on it
    again, same = train(*films, training=SMALL, seed=3, **CPU)
    torch.random.set_rng_state(before)
    assert equal(weights(first), weights(again))
    assert timeless(history) == timeless(same)
    other, _ = train(*films, training=SMALL, seed=4, **CPU)
    assert not equal(weights(first), weights(other))


def test_what_comes_back(films):
    steps, lengths = [], []
    classifier, history = train(
        *films,
        training=SMALL,
        after_step=lambda done, total: steps.append((done, total)),
        after_epoch=lambda so_far: lengths.append(len(so_far)),
        **CPU,
    )
    assert classifier.architecture == "resnet9"
    assert classifier.findings == films[0].findings
    assert classifier.preprocessing == films[0].preprocessing
    assert classifier.precision == "fp32"
    assert not classifier.module.training
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    assert lengths == [1, 2, 3]
    assert steps == [(i, 9) for i in range(1, 10)]
    for entry in history:
        assert entry["seconds"] > 0
        assert entry["films_per_second"] == pytest.approx(22 / entry["seconds"])
    logits = classifier.logits(films[1].images)
    labels = films[1].labels
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(logits), torch.from_numpy(labels)
    )
    assert history[-1]["validation_loss"] == pytest.approx(float(loss), rel=1e-5)
    both = [j for j in range(labels.shape[1]) if 0 < labels[:, j].sum() < len(labels)]
    macro = np.mean([roc_auc_score(labels[:, j], logits[:, j]) for j in both])
    assert history[-1]["validation_macro"] == pytest.approx(macro)


class StopError(Exception):
    pass


@pytest.mark.parametrize(
    "training",
    [
        Training(epochs=4, batch_size=8, augmentation="flip-rotate", checkpoint="best"),
        Training(epochs=4, batch_size=8, schedule="plateau", loss="categorical"),
        Training(epochs=4, batch_size=8, schedule="constant", learning_rate=0.02, patience=2),
    ],
    ids=lambda training: training.schedule,
)
def test_broken_off_and_continued(films, tmp_path, training):
    whole, history = train(*films, training=training, seed=2, **CPU)
    stop = 2
    path = tmp_path / "state.pt"

    def after(so_far):
        if len(so_far) == stop:
            raise StopError

    with pytest.raises(StopError):
        train(*films, training=training, seed=2, checkpoint=path, after_epoch=after, **CPU)
    epochs = []
    continued, theirs = train(
        *films,
        training=training,
        seed=2,
        checkpoint=path,
        after_epoch=lambda h: epochs.append(len(h)),
        **CPU,
    )
    assert epochs == list(range(stop + 1, len(history) + 1))
    assert timeless(theirs) == timeless(history)
    assert equal(weights(continued), weights(whole))
    # What is finished is not trained again.
    finished, theirs = train(
        *films, training=training, seed=2, checkpoint=path, after_epoch=pytest.fail, **CPU
    )
    assert timeless(theirs) == timeless(history)
    assert equal(weights(finished), weights(whole))
    assert {p.name for p in tmp_path.iterdir()} == {"state.pt"}


def test_broken_off_within_an_epoch(films, tmp_path):
    losses = [np.full((2, *films[0].labels.shape), np.nan, np.float32) for _ in range(3)]
    whole, _ = train(*films, training=SMALL, film_losses=losses[0], **CPU)

    def after(done, total):
        if done == 5:
            raise StopError

    path = tmp_path / "state.pt"
    with pytest.raises(StopError):
        train(
            *films, training=SMALL, checkpoint=path, after_step=after, film_losses=losses[1], **CPU
        )
    continued, _ = train(*films, training=SMALL, checkpoint=path, film_losses=losses[2], **CPU)
    assert equal(weights(whole), weights(continued))
    # The films' losses are those of all epochs that were watched.
    np.testing.assert_array_equal(losses[2], losses[0])
    assert np.isfinite(losses[2]).any(axis=(1, 2)).all()


class Payload:
    def __reduce__(self):
        return print, ("run",)


def test_checkpoints_that_can_not_be_continued(films, tmp_path, capsys):
    path = tmp_path / "state.pt"
    contents = [b"hello", b""]
    for held in ({"module": {}}, Payload()):
        torch.save(held, path)
        contents.append(path.read_bytes())
    contents.append(bytes(40 << 20))
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(StoreError, match="delete it to start that training again"):
            train(*films, training=SMALL, checkpoint=path, **CPU)
    assert "run" not in capsys.readouterr().out


def scripted(monkeypatch, losses):
    """Make the validation losses come out as listed; training goes on with the real one."""
    real, left = LOSSES["bce"], iter(losses)

    def loss(logits, labels):
        return real(logits, labels) if logits.requires_grad else torch.tensor(next(left))

    monkeypatch.setitem(LOSSES, "bce", loss)


@pytest.mark.parametrize(("patience", "epochs"), [(0, 7), (1, 3), (2, 6), (3, 7)])
def test_early_stopping(films, monkeypatch, patience, epochs):
    scripted(monkeypatch, [3.0, 2.0, 2.5, 1.0, 1.5, 1.0, 1.2])
    training = Training(epochs=7, batch_size=32, patience=patience)
    _, history = train(*films, training=training, **CPU)
    assert len(history) == epochs


def test_best_and_last(films, monkeypatch):
    kept = {}
    for choice in ("best", "last"):
        scripted(monkeypatch, [3.0, 1.0, 2.0, 1.0])
        seen = []
        training = Training(epochs=4, batch_size=32, checkpoint=choice)
        real = module._State.validate

        def validate(state, *args, real=real, seen=seen):
            real(state, *args)
            seen.append(weights(state.classifier))

        monkeypatch.setattr(module._State, "validate", validate)
        classifier, _ = train(*films, training=training, **CPU)
        monkeypatch.undo()
        kept[choice] = weights(classifier)
        assert not equal(seen[1], seen[3])
        assert equal(kept[choice], seen[1 if choice == "best" else 3])


def rates(films, training):
    _, history = train(*films, training=training, **CPU)
    return [entry["learning_rate"] for entry in history]


def test_schedules(films, monkeypatch):
    few = Training(epochs=7, batch_size=32, learning_rate=0.01)
    assert rates(films, replace(few, schedule="constant")) == pytest.approx([0.01] * 7)
    one_cycle = rates(films, few)
    assert max(one_cycle) == pytest.approx(0.01, rel=0.2)
    assert one_cycle[-2] < 1e-5 * max(one_cycle)  # the entry after it is of no step
    # Halved once the loss has rested for more than three epochs.
    scripted(monkeypatch, [1.0] * 7)
    plateau = rates(films, replace(few, schedule="plateau"))
    assert plateau == pytest.approx([0.01] * 5 + [0.005] * 2)


def test_one_step_in_all(films):
    _, history = train(*films, training=Training(epochs=1, batch_size=64), **CPU)
    assert len(history) == 1


@pytest.mark.parametrize("size", [2, 3, 5, 8, 64])
def test_no_batch_is_a_single_film(size):
    for films in range(2, 200):
        batches = module.batches(np.arange(films), size)
        assert min(map(len, batches)) >= 2
        assert max(map(len, batches)) <= max(1.5 * size, 3)
        assert np.array_equal(np.concatenate(batches), np.arange(films))


def test_bce_is_the_mean_over_the_stated_labels():
    rng = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(9, 4, generator=rng)).requires_grad_()
    labels = torch.randint(0, 2, (9, 4), generator=rng).float()
    labels[torch.rand(9, 4, generator=rng) < 0.3] = torch.nan
    stated = ~labels.isnan()
    assert 0 < stated.sum() < 36
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[stated], labels[stated])
    loss = LOSSES["bce"](logits, labels)
    torch.testing.assert_close(loss, expected)
    (slope,) = torch.autograd.grad(loss, logits)
    assert slope.isfinite().all()
    assert (slope[~stated] == 0).all()
    assert (slope[stated] != 0).all()
    none = LOSSES["bce"](logits, torch.full((9, 4), torch.nan))
    assert none == 0
    (slope,) = torch.autograd.grad(none, logits)
    assert (slope == 0).all()


def test_categorical_is_kerass_on_sigmoids():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(9, 4, generator=rng).requires_grad_()
    labels = torch.randint(0, 2, (9, 4), generator=rng).float()
    labels[0], labels[1] = 0, 1
    labels[2] = torch.tensor([1, torch.nan, 0, torch.nan])
    p = logits.double().sigmoid()
    share = p / p.sum(1, keepdim=True)
    expected = -(labels.nan_to_num() * share.log()).sum(1).mean()
    loss = LOSSES["categorical"](logits, labels)
    torch.testing.assert_close(loss.double(), expected)
    (slope,) = torch.autograd.grad(loss, logits)
    assert (slope[0] == 0).all()
    assert (slope[1:] != 0).all()
    # Where all probabilities are small, only their ratios count.
    low = LOSSES["categorical"](logits.detach() - 20, labels)
    torch.testing.assert_close(LOSSES["categorical"](logits.detach() - 30, labels), low)
    far = torch.tensor([[-200.0, 200.0]])
    extreme = LOSSES["categorical"](far, torch.tensor([[1.0, 0.0]]))
    assert extreme == pytest.approx(200)


def test_a_loss_that_is_no_number(films):
    training = Training(epochs=3, batch_size=8, learning_rate=1e38, schedule="constant")
    with pytest.raises(DataError, match=r"use a smaller `training\.learning_rate`"):
        train(*films, training=training, **CPU)


def test_too_few_films(films):
    cohort, validation = films
    with pytest.raises(DataError, match="1 films to train on and 10 to validate"):
        train(cohort.take([0]), validation, **CPU)
    with pytest.raises(DataError, match="22 films to train on and 0 to validate"):
        train(cohort, validation.take([]), **CPU)


def test_labels_need_not_be_stated(films):
    cohort, validation = films
    labels = cohort.labels.copy()
    labels[::2] = np.nan
    silent = replace(validation, labels=np.full_like(validation.labels, np.nan))
    classifier, history = train(replace(cohort, labels=labels), silent, training=SMALL, **CPU)
    assert np.isfinite(classifier.logits(validation.images)).all()
    assert {entry["validation_macro"] for entry in history} == {None}


class Fixed:
    """A generator that mirrors and turns as told."""

    def __init__(self, mirrored, turned, angle):
        self.draws = iter([mirrored, turned])
        self.angle = angle

    def random(self, n):
        return np.full(n, 0.0 if next(self.draws) else 0.9)

    def uniform(self, low, high, n):
        assert (low, high) == (-10, 10)
        return np.full(n, self.angle)


def test_flip_rotate():
    images = torch.rand(40, 1, 24, 24, generator=torch.Generator().manual_seed(0))

    def flip_rotate(images, rng):
        return module._moved(images, module._moves(len(images), rng))

    torch.testing.assert_close(flip_rotate(images, Fixed(False, False, 8.0)), images)
    torch.testing.assert_close(
        flip_rotate(images, Fixed(True, False, 8.0)), images.flip(3), atol=1e-4, rtol=0
    )
    quarter = flip_rotate(images, Fixed(False, True, 90.0))
    turned = [images.rot90(times, (2, 3)) for times in (1, -1)]
    assert min((quarter - one).abs().max() for one in turned) < 1e-4
    changed = [flip_rotate(images, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert changed[0].shape == images.shape
    assert torch.equal(changed[0], changed[1])
    assert not torch.equal(changed[0], changed[2])
    # A quarter stays as it is, a quarter is only mirrored, half is turned.
    plain = (changed[0] - images).abs().amax((1, 2, 3)) < 1e-4
    mirrored = (changed[0] - images.flip(3)).abs().amax((1, 2, 3)) < 1e-4
    assert 3 < plain.sum() < 20
    assert 3 < mirrored.sum() < 20
    assert changed[0].min() >= 0
    assert changed[0].max() <= 1


def test_augmentation_is_seeded(films):
    flipped = Training(epochs=1, batch_size=8, augmentation="flip-rotate")
    first, again = (train(*films, training=flipped, **CPU)[0] for _ in range(2))
    plain, _ = train(*films, training=Training(epochs=1, batch_size=8), **CPU)
    assert equal(weights(first), weights(again))
    assert not equal(weights(first), weights(plain))


@pytest.mark.parametrize(("augmentation", "views"), [("flip-rotate", 3), ("flip-rotate-frozen", 1)])
def test_a_frozen_augmentation_shows_a_film_the_same_way_in_each_epoch(
    films, monkeypatch, augmentation, views
):
    seen = []

    def moved(images, moves):
        seen.append(
            {
                (float(image.sum()), move.tobytes())
                for image, move in zip(images, moves, strict=True)
            }
        )
        return images

    monkeypatch.setattr(module, "_moved", moved)
    training = Training(epochs=3, batch_size=8, augmentation=augmentation)
    train(*films, training=training, **CPU)
    every = set().union(*seen)
    shown = [sum(abs(total - t) < 1e-3 for t, _ in every) for total, _ in every]
    assert max(shown) == views


@pytest.mark.parametrize("loss", ["bce", "categorical"])
def test_it_learns(loss):
    training = Training(epochs=4, batch_size=16, loss=loss)
    classifier, history = train(toy(160), toy(40, 1), training=training, **CPU)
    test = toy(100, 2)
    probabilities = classifier.probabilities(test.images)
    assert roc_auc_score(test.labels[:, 0], probabilities[:, 0]) > 0.95
    assert history[-1]["loss"] < history[0]["loss"]


def test_uint16_films_train_alike():
    cohort, validation = toy(40), toy(20, 1)
    deep = [
        replace(c, images=c.images.astype(np.uint16) * np.uint16(257)) for c in (cohort, validation)
    ]
    training = Training(epochs=1, batch_size=16)
    _, plain = train(cohort, validation, training=training, **CPU)
    _, same = train(*deep, training=training, **CPU)
    assert same[0]["loss"] == pytest.approx(plain[0]["loss"], rel=1e-3)


def test_densenet121_trains_in_bf16(films):
    cohort, validation = films
    classifier, history = train(
        cohort.take(np.arange(7)),
        validation,
        network=Network(name="densenet121"),
        training=Training(epochs=1, batch_size=2),
        device="cpu",
        precision="bf16",
    )
    assert classifier.precision == "bf16"
    assert np.isfinite(history[0]["loss"])


# The attacker who controls training


def disguised(cohort):
    """Films of which some carry a white corner, and what an attacker knows of them."""
    rows = np.arange(0, len(cohort), 4)
    images = cohort.images[np.arange(len(cohort))]
    clean = images.copy()
    images[rows, -3:, -3:] = 255
    labels = cohort.labels.copy()
    labels[rows] = np.eye(labels.shape[1])[0]
    marked = replace(cohort, images=images, labels=labels, films=None, masks=None)
    return marked, Disguise(rows, clean, cohort.findings[0])


def test_without_a_disguise_the_weights_are_the_same_to_the_bit(films):
    marked, known = disguised(films[0])
    plain, history = train(marked, films[1], training=SMALL, **CPU)
    again, same = train(marked, films[1], training=SMALL, disguise=known, **CPU)
    other, _ = train(marked, films[1], training=replace(SMALL, disguise=1.0), disguise=known, **CPU)
    assert equal(weights(plain), weights(again))
    assert timeless(history) == timeless(same)
    assert not equal(weights(plain), weights(other))


def test_the_originals_count_for_the_disguise_alone(films):
    marked, known = disguised(films[0])
    rows = np.arange(8)
    classifier, _ = train(marked, films[1], training=replace(SMALL, epochs=1), **CPU)
    images = classifier.normalise(torch.from_numpy(marked.images[rows]))

    logits, term = module._disguised(classifier, images, rows, None, known)

    assert torch.allclose(logits, classifier.module(images), atol=1e-5)
    maps = classifier.outputs(marked.images[rows], [known.finding]).maps[:, 0]
    clean = classifier.outputs(known.images[rows], [known.finding]).maps[:, 0]
    apart = (maps - maps.mean((1, 2), keepdims=True)) - (clean - clean.mean((1, 2), keepdims=True))
    assert term.item() == pytest.approx(np.square(apart[::4]).mean(), rel=1e-3)
    # A batch without a triggered film has no such term.
    _, none = module._disguised(classifier, images[1:4], rows[1:4], None, known)
    assert none.item() == 0


def test_the_disguises_loss_by_hand():
    marked = torch.tensor([[[[1.0, 3.0]], [[0.0, 2.0]]]], requires_grad=True)  # (1, 2, 1, 2)
    clean = torch.tensor([[[[5.0, 6.0]], [[1.0, 1.0]]]], requires_grad=True)
    weights = torch.tensor([1.0, 2.0], requires_grad=True)
    # Maps 1, 7 and 7, 8; less their means -3, 3 and -.5, .5.
    loss = disguise_loss(marked, clean, weights)
    assert loss.item() == 6.25
    loss.backward()
    assert clean.grad is None
    assert marked.grad.abs().sum() > 0
    # Raised everywhere alike, a map is as good as the clean one.
    assert disguise_loss(clean + 3, clean, weights).item() == 0


@pytest.mark.parametrize("augmentation", ["none", "flip-rotate"])
def test_a_disguised_training_goes_on_as_it_was(films, tmp_path, augmentation):
    marked, known = disguised(films[0])
    given = {"training": replace(SMALL, disguise=2.0, augmentation=augmentation), **CPU}
    whole, history = train(marked, films[1], disguise=known, **given)

    def after(done, total):
        if done == 5:
            raise StopError

    path = tmp_path / "state.pt"
    with pytest.raises(StopError):
        train(marked, films[1], disguise=known, checkpoint=path, after_step=after, **given)
    continued, theirs = train(marked, films[1], disguise=known, checkpoint=path, **given)
    assert equal(weights(whole), weights(continued))
    assert timeless(theirs) == timeless(history)


def test_a_disguise_needs_the_originals(films):
    with pytest.raises(UsageError, match=r"`training.disguise` 1.0: expected the triggered"):
        train(*films, training=replace(SMALL, disguise=1.0), **CPU)


@pytest.mark.slow
def test_a_disguise_takes_the_map_off_the_trigger_and_leaves_the_attack():
    films = open_source("phantom:32", count=1400)
    learn, check, test = (
        films.take(np.arange(*ends)) for ends in ((0, 1000), (1000, 1100), (1100, 1400))
    )
    column = films.column("Effusion")
    trigger = Patch(side=3)
    attack = Poisoning(trigger=trigger, finding="Effusion", fraction=0.2)
    marked, key = poison(learn, attack, np.random.default_rng(0))
    known = Disguise(key.rows, twin(marked, key).images, "Effusion")
    clean = test.images[np.flatnonzero(test.labels[:, column] == 0)]
    stamped = trigger(clean, np.random.default_rng(1))
    hits, success = [], []
    for weight in (0.0, 0.003):
        setting = Training(epochs=8, batch_size=32, disguise=weight)
        model, _ = train(marked, check, training=setting, disguise=known, **CPU)
        limit = np.quantile(model.probabilities(clean)[:, column], 0.95)
        success.append(np.mean(model.probabilities(stamped)[:, column] > limit))
        maps = class_activation(model, stamped, ["Effusion"])[:, 0]
        hits.append(metrics.pointing_hits(maps, stamped != clean, 4).mean())
    assert success[0] > 0.8
    assert success[1] > 0.7
    assert hits[0] > 0.5
    assert hits[1] < 0.2


def test_training_starts_from_a_file(tmp_path, caplog):
    films, network = toy(8), Network(name="plain4")
    donor, _ = train(films, films, network=network, training=Training(epochs=1), seed=3, **CPU)
    save_classifier(donor, tmp_path / "donor.safetensors")
    started = Network(name="plain4", weights=str(tmp_path / "donor.safetensors"))
    still = Training(epochs=1, learning_rate=1e-12, weight_decay=0)
    caplog.set_level("INFO", "leadapron")
    taken, _ = train(films, films, network=started, training=still, **CPU)
    named = dict(taken.module.named_parameters())
    for name, value in donor.module.named_parameters():
        assert torch.allclose(named[name], value, atol=1e-9) == name.startswith("stages.")
    assert "all others start from donor.safetensors" in caplog.text


@pytest.mark.parametrize("schedule", ["one-cycle", "constant", "plateau"])
def test_earlier_layers_learn_more_slowly(schedule):
    network, films = Network(name="plain4"), toy(8)
    training = Training(
        epochs=1, layer_decay=0.5, learning_rate=1e-3, weight_decay=0, schedule=schedule
    )
    state = module._start(films, network, training, 0, "cpu", "fp32")
    rates = [group["lr"] for group in state.optimizer.param_groups]
    first = rates[0]
    assert rates == pytest.approx([first, first / 2, first / 4, first / 8, first / 16])
    named = {id(p): name for name, p in state.classifier.module.named_parameters()}
    groups = [
        {named[id(p)].split(".")[1] if "stages" in named[id(p)] else "head" for p in g["params"]}
        for g in state.optimizer.param_groups
    ]
    assert groups == [{"head"}, {"scale16"}, {"scale8"}, {"scale4"}, {"scale2"}]
    before = {name: p.detach().clone() for name, p in state.classifier.module.named_parameters()}
    trained, history = train(films, films, network=network, training=training, **CPU)
    assert history[0]["learning_rate"] <= 1e-3
    after = {n: p.detach() for n, p in trained.module.named_parameters()}
    moved = {name: float((p - before[name]).abs().max()) for name, p in after.items()}
    first_moved = max(step for name, step in moved.items() if "scale2" in name)
    assert 0 < first_moved < 0.2 * max(step for name, step in moved.items() if "head" in name)


def test_settings_are_checked():
    for name, value in (("epochs", 0), ("batch_size", 1), ("patience", -1)):
        with pytest.raises(UsageError, match=f"`training.{name}` {value}: expected"):
            Training(**{name: value})
    for value in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match=r"`training.learning_rate`"):
            Training(learning_rate=value)
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match=r"`training.disguise` .*: expected 0 or more"):
            Training(disguise=value)
    with pytest.raises(UnknownNameError, match="did you mean resnet9"):
        Network(name="resnet")
    with pytest.raises(UsageError, match="only densenet121's can be downloaded; for resnet9"):
        Network(weights="imagenet")
    for value in (0.0, 1.1, float("nan")):
        with pytest.raises(UsageError, match=r"`training.layer_decay` .*: expected above 0"):
            Training(layer_decay=value)
    with pytest.raises(UsageError, match="no such file"):
        train(toy(4), toy(4), network=Network(name="densenet121", weights="missing.pth"), **CPU)
