"""BackdoorBench's repairs, called on leadapron's networks and films; nothing of theirs is copied.

Their defences read settings, the result of an attack and folders, and test the network on test
films as they go. Here each gets its settings from its own file in the clone, and network and films
from `Case`; drawing of curves and writing of tables is left out. Where a defence would test its
network after an epoch, `Watch` sees it instead.

Two rules choose what is kept of one training: "own", as their code does, and "ours", as leadapron's
repairs do, by the AUROC on clean films of other patients.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import io
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest import mock

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import prune

from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier, autocast
from leadapron.repairs.guard import Judged, prefers
from leadapron.repairs.session import Session, copied_network

Rule = Literal["own", "ours"]
RULES: tuple[Rule, ...] = ("own", "ours")

BATCH = 32
"""Films a step, as in leadapron's repairs. Theirs are 256, of 2,500 films: as many steps an epoch
as 32 of 300 films take."""

BAU_BATCH = 100
"""I-BAU marks int(1 %) of a batch: none of fewer than 100."""


# --- one network for both


class TwoLogits(nn.Module):
    """A one-finding classifier's network with two logits, absent and present.

    Their difference is the finding's logit, so that softmax and cross-entropy of the two are
    sigmoid and binary cross-entropy of the one. Parts run in the order of `children()`, and the
    last one is the linear layer, as in the networks that BackdoorBench knows.
    """

    def __init__(self, classifier: NetworkClassifier) -> None:
        super().__init__()
        own = copied_network(classifier, "BackdoorBench").module
        for name, stage in own.stages.items():
            self.add_module(name, stage)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(own.head.in_features, 2)
        with torch.no_grad():
            self.linear.weight.copy_(torch.cat([-own.head.weight / 2, own.head.weight / 2]))
            self.linear.bias.copy_(torch.cat([-own.head.bias / 2, own.head.bias / 2]))
        self.precision = classifier.precision

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        *stages, _, _ = self.children()
        with autocast(images.device, self.precision):
            for stage in stages:
                images = stage(images)
        return self.linear(self.pool(images.float()).flatten(1))


def one_logit(network: TwoLogits, like: NetworkClassifier) -> NetworkClassifier:
    """Return the classifier whose logit is the difference of the network's two."""
    found = copied_network(like, "BackdoorBench")
    for name, stage in found.module.stages.items():
        stage.load_state_dict(getattr(network, name).state_dict())
    linear, head = network.linear, found.module.head
    # `weight` of a layer under torch's pruning is as old as its last forward pass.
    pruned = prune.is_pruned(linear)
    weight = linear.weight_orig * linear.weight_mask if pruned else linear.weight
    with torch.no_grad():
        head.weight.copy_(weight[1:] - weight[:1])
        head.bias.copy_(linear.bias[1:] - linear.bias[:1])
    return found


class Films(torch.utils.data.Dataset):
    """Normalised films as their loaders give them: image, label, number, poisoned, true label."""

    def __init__(
        self, classifier: NetworkClassifier, images: NDArray[Any], labels: NDArray[Any]
    ) -> None:
        self.images = classifier.normalise(torch.from_numpy(images))
        self.labels = [int(label) for label in labels]
        self.wrapped_dataset, self.wrap_img_transform = self, None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int, int, int, int]:
        return self.images[row], self.labels[row], row, 0, self.labels[row]

    def subset(self, rows: Any) -> None:
        """Their choice of clean films: all that there are."""
        assert len(rows) == len(self)


# --- what is repaired, and what is kept


@dataclass
class Case:
    """A network to repair.

    Args:
        session: leadapron's session of this network: its films to learn from, and its guard.
        test: clean test films, by which their own rule chooses where it chooses.
        stamped: copies with the trigger of those without the finding.
        most_films: budget in film trainings; published numbers of epochs are cut to it.
        seed: of their random numbers.
        clone: BackdoorBench's folder.
    """

    session: Session
    test: Cohort
    stamped: NDArray[Any]
    most_films: int
    seed: int
    clone: Path

    @property
    def classifier(self) -> NetworkClassifier:
        return self.session.student

    @property
    def result(self) -> dict[str, Any]:
        """What their defences call the result of an attack."""
        learn, test = self.session.learn, self.test
        rows = np.arange(len(learn)), np.arange(len(test))
        target = np.ones(len(self.stamped))
        return {
            "model": TwoLogits(self.classifier).state_dict(),
            "clean_train": Films(self.classifier, learn.images[rows[0]], learn.labels[:, 0]),
            "clean_test": Films(self.classifier, test.images[rows[1]], test.labels[:, 0]),
            "bd_test": Films(self.classifier, self.stamped, target),
        }


@dataclass
class Watch:
    """Keeps of each network in training what leadapron's rule prefers.

    Args:
        session: judges.
        skip: calls that come before any training.
    """

    session: Session
    skip: int = 0
    kept: dict[int, tuple[Judged, NetworkClassifier]] = field(default_factory=dict)
    spent: float = 0.0

    def judge(self, network: TwoLogits) -> tuple[Judged, NetworkClassifier]:
        began = time.process_time()
        found = one_logit(network, self.session.student)
        judged = self.session.guard.judge(found.logits(self.session.guard.films.images))
        self.spent += time.process_time() - began
        return judged, found

    def __call__(self, network: TwoLogits) -> None:
        if self.skip:
            self.skip -= 1
            return
        now, before = self.judge(network), self.kept.get(id(network))
        if before is None or prefers(now[0], before[0]):
            self.kept[id(network)] = now


class Outcome(NamedTuple):
    repaired: NetworkClassifier
    seconds: float  # the processor's
    work: str  # how much of the published training there was


# --- their defences, with stand-ins for files, folders and tests

CLASSES = {
    "ft": "ft", "fp": "FinePrune", "nad": "nad", "anp": "anp", "i-bau": "i_bau", "ft-sam": "dsam",
    "sau": "sau",
}  # fmt: skip


def nothing(*given: Any, **named: Any) -> None: ...


def module_of(case: Case, name: str) -> Any:
    if str(case.clone) not in sys.path:
        sys.path.insert(0, str(case.clone))
    return importlib.import_module(name)


def settings(case: Case, method: str, folder: str, **others: Any) -> argparse.Namespace:
    """Return a defence's own settings, from its parser and file, with ours laid over them."""
    parser = argparse.ArgumentParser()
    kind = getattr(module_of(case, f"defense.{method}"), CLASSES[method])
    kind().set_args(parser) if method == "fp" else kind.add_arguments(parser)
    named = {k: v for k, v in vars(parser.parse_args([])).items() if v is not None}
    file = case.clone / "config" / "defense" / method / "config.yaml"
    size = case.classifier.preprocessing.size
    ours = {
        "device": "cpu", "amp": False, "pin_memory": False, "non_blocking": True, "num_workers": 0,
        "prefetch": False, "frequency_save": 0, "batch_size": BATCH, "num_classes": 2,
        "input_height": size, "input_width": size, "input_channel": 1, "index": None, "ratio": 1.0,
        "random_seed": case.seed, "save_path": f"{folder}/", "log": f"{folder}/",
        "checkpoint_save": f"{folder}/", "defense_save_path": folder, "method": method, **others,
    }  # fmt: skip
    return argparse.Namespace(**{**yaml.safe_load(file.read_text()), **named, **ours})


@contextlib.contextmanager
def standing_in(case: Case, module: Any, args: argparse.Namespace, watch: Watch) -> Iterator[None]:
    """Let a defence work on our network and films, write nothing, and show each epoch's network."""
    like = case.classifier
    trainers = module_of(case, "utils.trainer_cls")
    one = torch.zeros(1)
    unmeasured = {"test_loss_avg_over_batch": 0.0, "test_acc": 0.0}

    def tested(trainer: Any, *given: Any, **named: Any) -> Any:  # noqa: ARG001
        watch(trainer.model)
        return unmeasured, one, one

    def stepped(defence: Any, network: TwoLogits, *given: Any) -> Any:  # noqa: ARG001
        watch(network)
        return (0.0,) * 6

    every: dict[str, Any] = {
        "args": args,
        "generate_cls_model": lambda *given: TwoLogits(like),
        "get_transform": nothing,
        "prepro_cls_DatasetBD_v2": lambda films: films,
        "choose_index": lambda args, films: range(films),
        "choose_by_class": lambda args, films: range(len(films)),
        "save_defense_result": nothing,
        "general_plot_for_epoch": nothing,
        "get_dataset_normalization": lambda name: lambda grey: (grey - like.mean) / like.std,
        "get_dataset_denormalization": lambda scaled: lambda film: film * like.std + like.mean,
    }
    quiet = {"agg_save_dataframe": nothing, "agg_save_summary": nothing}
    drawn = {"plot_loss": nothing, "plot_acc_like_metric": nothing}
    on_mix = {"test_given_dataloader_on_mix": lambda *given, **named: (unmeasured, *[one] * 5)}
    with contextlib.ExitStack() as stack:
        put = stack.enter_context
        put(mock.patch.multiple(module, create=True, **every))
        if args.watched_by == "epochs":
            base = trainers.ModelTrainerCLS_v2
            put(mock.patch.multiple(base, test_given_dataloader=tested, **quiet))
            for kind in (trainers.PureCleanModelTrainer, trainers.BackdoorModelTrainer):
                put(mock.patch.multiple(kind, **on_mix, **drawn))
        elif args.watched_by == "rounds":
            kind = getattr(module, CLASSES[args.method])
            put(mock.patch.object(kind, "eval_step", stepped))
        put(contextlib.redirect_stdout(io.StringIO()))
        put(contextlib.redirect_stderr(io.StringIO()))
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def defence_of(case: Case, module: Any, args: argparse.Namespace) -> Any:
    """Return their object as its own constructor would leave it, without files."""
    defence = object.__new__(getattr(module, CLASSES[args.method]))
    defence.args, defence.result = args, case.result
    return defence


def trained(
    case: Case, method: str, *, watched_by: str, work: str, skip: int = 0, **others: Any
) -> dict[Rule, Outcome]:
    """Run a defence whose own rule keeps the last epoch."""
    module, watch = module_of(case, f"defense.{method}"), Watch(case.session, skip)
    with tempfile.TemporaryDirectory() as folder:
        args = settings(case, method, folder, watched_by=watched_by, **others)
        with standing_in(case, module, args, watch):
            defence, began = defence_of(case, module, args), time.process_time()
            network = defence.mitigation()["model"]
            total = time.process_time() - began
    last = one_logit(network, case.classifier)
    return {
        "own": Outcome(last, total - watch.spent, work),
        "ours": Outcome(watch.kept[id(network)][1], total, work),
    }


def published(case: Case, method: str, name: str) -> int:
    file = case.clone / "config" / "defense" / method / "config.yaml"
    return int(yaml.safe_load(file.read_text())[name])


def affordable(case: Case, method: str, name: str, passes: int, films: int = 0) -> tuple[int, str]:
    """Return how many epochs, rounds or steps the budget allows, and that in words.

    Args:
        case: gives the budget.
        method: theirs.
        name: of the setting in its file.
        passes: film trainings that one film takes.
        films: of one epoch, round or step; those that are learned from if left out.
    """
    most = published(case, method, name)
    count = min(most, max(1, case.most_films // (passes * (films or len(case.session.learn)))))
    unit = {"epochs": "epochs", "te_epochs": "epochs", "n_rounds": "rounds", "nb_iter": "steps"}
    return count, f"{count:,} of {most:,} {unit[name]}"


def fine_tuning(case: Case) -> dict[Rule, Outcome]:
    epochs, work = affordable(case, "ft", "epochs", 1)
    return trained(case, "ft", watched_by="epochs", work=work, epochs=epochs)


def attention(case: Case) -> dict[Rule, Outcome]:
    epochs, work = affordable(case, "nad", "te_epochs", 6)
    return trained(case, "nad", watched_by="epochs", work=work, te_epochs=epochs)


def sharpness(case: Case) -> dict[Rule, Outcome]:
    epochs, work = affordable(case, "ft-sam", "epochs", 2)
    return trained(case, "ft-sam", watched_by="rounds", work=work, epochs=epochs)


def shared(case: Case) -> dict[Rule, Outcome]:
    rounds, work = affordable(case, "sau", "n_rounds", 16)
    return trained(case, "sau", watched_by="rounds", work=work, skip=1, n_rounds=rounds)


class OnCpu:
    """torch, where a device "cuda" that is written into their code is the processor."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def zeros_like(like: torch.Tensor, device: str = "") -> torch.Tensor:  # noqa: ARG004
        return torch.zeros_like(like)


def universal(case: Case) -> dict[Rule, Outcome]:
    rounds, work = affordable(case, "i-bau", "n_rounds", 12)
    with mock.patch.object(module_of(case, "defense.i-bau"), "torch", OnCpu()):
        return trained(
            case, "i-bau", watched_by="rounds", work=work, n_rounds=rounds, batch_size=BAU_BATCH
        )


def fine_pruning(case: Case) -> dict[Rule, Outcome]:
    return {rule: _fine_pruned(case, rule) for rule in RULES}


def _fine_pruned(case: Case, rule: Rule) -> Outcome:
    """Channels are pruned as far as the rule allows, then all is fine-tuned."""
    epochs, work = affordable(case, "fp", "epochs", 1)
    module, watch = module_of(case, "defense.fp"), Watch(case.session)
    accuracy, result = module.given_dataloader_test, case.result

    def tested(network: TwoLogits, loader: Any, *given: Any) -> Any:
        if loader.dataset is result["bd_test"]:  # for their tables alone
            return ({"test_acc": 0.0},)
        if rule == "own":
            return accuracy(network, loader, *given)
        return ({"test_acc": float(watch.judge(network)[0].accepted)},)

    with tempfile.TemporaryDirectory() as folder:
        args = settings(case, "fp", folder, watched_by="epochs", epochs=epochs)
        with standing_in(case, module, args, watch):
            defence = object.__new__(module.FinePrune)
            defence.args, defence.attack_result = args, result
            defence.netC = TwoLogits(case.classifier).eval().requires_grad_(False)
            with mock.patch.object(module, "given_dataloader_test", tested):
                module.fix_random(args.random_seed)
                began = time.process_time()
                defence.defense()
                total = time.process_time() - began
    if rule == "own":
        return Outcome(one_logit(defence.netC, case.classifier), total - watch.spent, work)
    return Outcome(watch.kept[id(defence.netC)][1], total, work)


def neuron_pruning(case: Case) -> dict[Rule, Outcome]:
    """Masks are learned once; then each rule takes a threshold."""
    steps, work = affordable(case, "anp", "nb_iter", 3, BATCH)
    module, watch = module_of(case, "defense.anp"), Watch(case.session)
    trainers = module_of(case, "utils.trainer_cls")
    search, calls = module.anp.evaluate_by_threshold, iter(range(-1, -1000, -1))
    found: dict[Rule, TwoLogits] = {}
    spent: dict[Rule, float] = {}

    def accepted(trainer: Any, *given: Any) -> Any:  # noqa: ARG001
        # Of those with this accuracy their search keeps the lowest success: here the last one.
        return 0.0, 0.0, float(watch.judge(trainer.model)[0].accepted), next(calls), 0.0

    def by_both(defence: Any, args: Any, network: TwoLogits, masks: Any, **how: Any) -> Any:
        judge = mock.patch.object(trainers.PureCleanModelTrainer, "test_current_model", accepted)
        for rule in RULES:
            began = time.process_time()
            with judge if rule == "ours" else contextlib.nullcontext():
                given = how if rule == "own" else {**how, "acc_ori": 1.0, "best_asr": 1.0}
                _, found[rule] = search(defence, args, copy.deepcopy(network), masks, **given)
            spent[rule] = time.process_time() - began
        return [], found["own"]

    def noisy(name: str, num_classes: int, norm_layer: Any) -> TwoLogits:  # noqa: ARG001
        network = TwoLogits(case.classifier)
        for place, part in list(network.named_modules()):
            if isinstance(part, nn.BatchNorm2d):
                holder, _, last = place.rpartition(".")
                setattr(network.get_submodule(holder), last, norm_layer(part.num_features))
        return network

    with tempfile.TemporaryDirectory() as folder:
        args = settings(
            case, "anp", folder, watched_by="", nb_iter=steps,
            print_every=min(steps, published(case, "anp", "print_every")),
        )  # fmt: skip
        with (
            standing_in(case, module, args, watch),
            mock.patch.object(module, "get_anp_network", noisy),
            mock.patch.object(module.anp, "evaluate_by_threshold", by_both),
        ):
            defence, began = defence_of(case, module, args), time.process_time()
            defence.mitigation()
            total = time.process_time() - began
    learning = total - sum(spent.values())
    return {
        rule: Outcome(one_logit(found[rule], case.classifier), learning + spent[rule], work)
        for rule in RULES
    }


def channel_pruning(case: Case) -> dict[Rule, Outcome]:
    """`CLP_prune` itself; the rest of their defence draws curves over test films."""
    cut = module_of(case, "defense.clp").CLP_prune
    watch, spreads = Watch(case.session), float(published(case, "clp", "u"))

    def pruned(by: float) -> TwoLogits:
        network = TwoLogits(case.classifier).eval()
        cut(network, by)
        return network

    began = time.process_time()
    network = pruned(spreads)
    seconds = time.process_time() - began
    last = one_logit(network, case.classifier)
    own = Outcome(last, seconds, f"u = {spreads:g}")
    while not watch.judge(network)[0].accepted:
        spreads += 0.5
        network = pruned(spreads)
    kept = one_logit(network, case.classifier)
    return {"own": own, "ours": Outcome(kept, time.process_time() - began, f"u = {spreads:g}")}


REPAIRS: dict[str, Callable[[Case], dict[Rule, Outcome]]] = {
    "FT": fine_tuning,
    "FP": fine_pruning,
    "NAD": attention,
    "ANP": neuron_pruning,
    "CLP": channel_pruning,
    "I-BAU": universal,
    "FT-SAM": sharpness,
    "SAU": shared,
}
