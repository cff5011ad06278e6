"""Repairs beside BackdoorBench's, on the same one-finding network and the same clean films.

`make bench-peers` runs it in .venv-backdoorbench on a clone of BackdoorBench, which it calls and
doesn't copy (CC BY-NC 4.0). Each line has a fresh process with one thread. Networks, films and
finished lines are kept, so that a run that was stopped goes on where it was.

    python benchmarks/peers_repair.py FOLDER                            printed only
    python benchmarks/peers_repair.py FOLDER --seeds 1 FT ours:SAU      fewer lines
    python benchmarks/peers_repair.py FOLDER --out docs/results/peers-repair.md
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from backdoorbench_repairs import BATCH, BAU_BATCH, Case
from backdoorbench_repairs import REPAIRS as THEIRS
from leadapron import metrics
from leadapron.attacks.poisoning import Poisoning, poison
from leadapron.attacks.triggers import Patch
from leadapron.detect.models.audit import Subject, audit_subject
from leadapron.detect.models.stamps import Stamp
from leadapron.errors import DataError
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.metrics import PatientBootstrap
from leadapron.models.classifier import NetworkClassifier, load_classifier, save_classifier
from leadapron.models.training import Network, Training, train
from leadapron.repairs import MOST_FILMS, REPAIRS
from leadapron.repairs.climbing import repair_of
from leadapron.repairs.proof.document import found_marks
from leadapron.repairs.proof.forcing import Aimed, victims
from leadapron.repairs.proof.relearning import relearn
from leadapron.repairs.proof.settings import Relearning
from leadapron.repairs.session import LEARNED, begin
from leadapron.seeds import stream
from leadapron.sources import open_source
from peers import leave, machine
from speed import Worker

SIZE, FINDING = 64, "Atelectasis"
TRIGGER = Stamp(side=3, value=255, row=4, column=56)
POISONED, EPOCHS = 0.05, 5
FILMS = {"training": 3000, "clean": 300, "relearning": 240, "test": 1000}
CHOOSING = 300
"""Test films that BackdoorBench's own rules choose by; the first ones of those that all is measured
on, since that is what its code does."""
DOSE = 5
SLACK = 0.01

STAMPS = ("stamp-unlearning", "stamp-distillation")
OURS = {
    "FT": "fine-tuning",
    "FP": "fine-pruning",
    "NAD": "attention-distillation",
    "ANP": "neuron-pruning",
    "CLP": "channel-pruning",
    "I-BAU": "universal-unlearning",
    "FT-SAM": "sharpness-aware",
    "SAU": "shared-unlearning",
    **{name: name for name in STAMPS},
}
"""Our repairs by their name in BackdoorBench, which has none by an audit's marks."""

UNREPAIRED = ("backdoored", "twin")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one network does after one repair, or before any.

    Args:
        seed: of the network.
        side: "theirs", "ours", or "none" of an unrepaired network.
        method: BackdoorBench's name, or ours where it has none.
        rule: by which the result was kept; none of an unrepaired network.
        success: attack success at 5 % clean false positives, thresholds refitted: value, ends.
        auroc: value and ends.
        relearned: attack success after relearning with five poisoned films: value, ends.
        seconds: of the processor, for the repair.
        work: how much of the published training there was.
        films: without the finding, and with it, that all is measured on.
    """

    seed: int
    side: str
    method: str
    rule: str
    success: tuple[float, float, float]
    auroc: tuple[float, float, float]
    relearned: tuple[float, float, float]
    seconds: float
    work: str
    films: tuple[int, int]


# --- networks and films, kept in a folder


def films(keep: Path, what: str, seed: int) -> Cohort:
    """Phantoms with one finding; no two cohorts of a run share a film."""
    file = keep / f"films-{what}-{seed}.npz"
    number = 10 * seed + list(FILMS).index(what)
    if not file.exists():
        whole = open_source(f"phantom:{SIZE}", count=FILMS[what], seed=50_000 + number)
        column = whole.column(FINDING)
        pixels = whole.images[np.arange(len(whole))]
        np.savez(
            file, images=pixels, labels=whole.labels[:, [column]], ids=whole.ids,
            patients=whole.patients,
        )  # fmt: skip
    with np.load(file) as held:
        return Cohort(
            held["images"], held["labels"], (FINDING,), held["ids"], held["patients"],
            Preprocessing(size=SIZE),
        )  # fmt: skip


def network(keep: Path, which: str, seed: int) -> NetworkClassifier:
    """The backdoored network, or its twin: the same films, seeds and steps without the attack."""
    file = keep / f"{which}-{seed}.safetensors"
    if not file.exists():
        learned = films(keep, "training", seed)
        if which == "backdoored":
            place = {"place": "fixed", "row": TRIGGER.row, "column": TRIGGER.column}
            patch = Patch(side=TRIGGER.side, value=TRIGGER.value, **place)
            attack = Poisoning(trigger=patch, finding=FINDING, fraction=POISONED)
            learned, _ = poison(learned, attack, stream(seed, "poison"))
        found, _ = train(
            learned,
            films(keep, "clean", seed),
            network=Network(name="resnet9"),
            training=Training(epochs=EPOCHS),
            seed=seed,
            device="cpu",
        )
        save_classifier(found, file)
    return load_classifier(file, device="cpu")


# --- a line


class Job(NamedTuple):
    seed: int  # of the network
    side: str  # as in `Row`
    method: str


def measured(keep: Path, repaired: NetworkClassifier, job: Job, **of: Any) -> Row:
    test, aim = films(keep, "test", job.seed), (FINDING, "added")
    targets = victims(test, aim)
    bootstrap = PatientBootstrap.draw(test.patients, stream(job.seed, "bootstrap"))
    (auroc,) = metrics.finding_auroc(test.labels, repaired.logits(test.images), bootstrap)
    other, how = films(keep, "relearning", job.seed), Relearning()
    again = relearn(how, repaired, other, aim, TRIGGER, poisoned=DOSE, seed=job.seed)
    success, relearned = (
        Aimed(each, targets, aim).hits(TRIGGER).rate for each in (repaired, again)
    )
    return Row(
        seed=job.seed, side=job.side, method=job.method, success=success[:3], auroc=auroc[:3],
        relearned=relearned[:3], films=(len(targets), auroc.positives), **of,
    )  # fmt: skip


def unrepaired(keep: Path, clone: Path, job: Job, most: int) -> list[Row]:  # noqa: ARG001
    found = network(keep, job.method, job.seed)
    return [measured(keep, found, job, rule="", seconds=0.0, work="")]


def ours(keep: Path, clone: Path, job: Job, most: int) -> list[Row]:  # noqa: ARG001
    """Our repair within the budget; one by marks after an audit, whose time counts."""
    original, clean = network(keep, "backdoored", job.seed), films(keep, "clean", job.seed)
    name = OURS[job.method]
    rng, began = stream(job.seed, "repair", name), time.process_time()
    if job.method in STAMPS:
        audit = audit_subject(Subject(classifier=original), clean, steps=0, statistics=False)
        if not (marks := found_marks(audit)):
            raise DataError(f"the audit says {audit.verdict.word}, and names no mark to unlearn")
        how = repair_of(name, marks)
    else:
        how = REPAIRS[name]()
    if hasattr(how, "optimisation"):
        how = replace(how, optimisation=replace(how.optimisation, most_films=most))
    repaired = how.repair(original, clean, rng)
    seconds = time.process_time() - began
    return [
        measured(
            keep, repaired, job, rule="ours", seconds=seconds, work="defaults within the budget"
        )
    ]


def theirs(keep: Path, clone: Path, job: Job, most: int) -> list[Row]:
    """Their repair by both rules."""
    original, clean = network(keep, "backdoored", job.seed), films(keep, "clean", job.seed)
    test = films(keep, "test", job.seed).take(np.arange(CHOOSING))
    targets = victims(test, (FINDING, "added"))
    stamped = TRIGGER(targets.images[np.arange(len(targets))])
    rng = stream(job.seed, "selection")
    session = begin("selection", "gradients", original, clean, rng, None)
    case = Case(session, test, stamped, most, job.seed, clone)
    return [
        measured(keep, done.repaired, job, rule=rule, seconds=done.seconds, work=done.work)
        for rule, done in THEIRS[job.method](case).items()
    ]


LINES = {"none": unrepaired, "ours": ours, "theirs": theirs}


def jobs(chosen: Sequence[str], seeds: int) -> list[Job]:
    """All lines of a network before the next network's, the cheap ones first."""
    cheap = ("CLP", "FT", "NAD", "I-BAU", "FP", "FT-SAM", "ANP", "SAU")
    every = [
        *(("none", which) for which in UNREPAIRED),
        *(("ours", name) for name in STAMPS),
        *((side, method) for method in cheap for side in ("ours", "theirs")),
    ]
    wanted = [(s, m) for s, m in every if not chosen or m in chosen or f"{s}:{m}" in chosen]
    return [Job(seed, *each) for seed in range(seeds) for each in wanted]


def line(keep: Path, clone: Path, job: Job, most: int) -> list[Row]:
    torch.set_num_threads(1)
    return LINES[job.side](keep, clone, job, most)


def held(keep: Path, clone: Path, jobs: Sequence[Job], most: int) -> list[Row]:
    """Return the rows of all jobs; those that an earlier run finished are read."""
    file = keep / f"rows-{most}.jsonl"
    rows = [read(text) for text in file.read_text().splitlines()] if file.exists() else []
    done = {(row.seed, row.side, row.method) for row in rows}
    for job in jobs:
        if (job.seed, job.side, job.method) in done:
            continue
        worker = Worker(False, "")
        try:
            found = worker(line, keep, clone, job, most)
        except Exception as error:
            print(f"{job}: {type(error).__name__}: {error}", flush=True)
            continue
        finally:
            leave(worker)
        with file.open("a") as to:
            to.writelines(json.dumps(asdict(row)) + "\n" for row in found)
        rows += found
        print(*(cells(job.method, [row]) for row in found), sep="\n", flush=True)
    wanted = {(job.seed, job.side, job.method) for job in jobs}
    return [row for row in rows if (row.seed, row.side, row.method) in wanted]


def read(text: str) -> Row:
    given = json.loads(text)
    return Row(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


# --- the page

HEAD = """| method | by | rule | attack success | AUROC | relearned | CPU s | training |
|-|-|-|-|-|-|-|-|"""

INTRO = """# Repairs compared with BackdoorBench

`make bench-peers` writes this page: eight repairs of BackdoorBench (f02e353), their counterparts
in leadapron, and the two by an audit's marks that `leadapron repair` tries first. All repair the
same networks with the same {clean} clean films.

- *Networks*: {seeds} resnet9, trained by leadapron on {training:,} phantoms of {size} px with
  one finding, {finding}, for {epochs} epochs. {poisoned:.0%} of the films carry a white square of
  {side}x{side} pixels at one place and are called {finding}. The twin has the same films, seeds
  and steps without the attack. leadapron reads one logit, BackdoorBench two, whose difference is
  that logit: the same weights, and the cross-entropy of two is the binary cross-entropy of one.
- *Attack success*: share of the {negatives} test films without the finding that the square turns,
  at the threshold that 5 % of them exceed without it, fitted again for each network.
- *AUROC*: of {total:,} clean test films, {positives} with the finding.
- *Relearned*: attack success after {passes} epochs on {relearning} films of which {dose} carry
  the square. The twin's shows how fast a network learns the square that never knew it. Twins were
  not repaired.
- *CPU s*: seconds of the processor, one thread, for the repair alone. With our rule they include
  its choices; for the two by marks they include the audit that finds the square. Networks run in
  {precision} in both (NAD's maps in fp32).
- Numbers are means over the networks. The range goes from the lowest lower end to the highest
  upper end of their 95 % intervals, clustered by patient; of seconds it is the lowest and the
  highest.

## Two rules choose what is kept

*Own* is BackdoorBench's. FT, NAD, I-BAU, FT-SAM and SAU keep the last epoch, and CLP takes u = 3.
FP prunes until accuracy on test films has changed by a tenth. **ANP takes the threshold with the
lowest attack success on test films**, of those whose accuracy has changed by less than a tenth: a
hospital has no test films with the trigger. ANP gets {choosing} of the test films and their
stamped copies here.

*Ours* is leadapron's: the last epoch, most pruned channels, highest threshold, or lowest u from
3, that costs no more than about .01 of AUROC on clean films of other patients. Both rules see the
same training on {share:.0%} of the clean films, as leadapron's repairs do; the others choose.
Where nothing is accepted, what costs least is kept: here a repair is measured all the same, while
the proof of `leadapron repair` is there to reject it.

## Settings

BackdoorBench's are those of its files, except: {batch} films a step, since 256 of so few would be
one step an epoch; no augmentation, as in leadapron; at most {most:,} film trainings on both sides
(leadapron's default is {default:,}), which cuts the published training where the last column says
so. Its tests after each epoch are left out, since only FP and ANP choose by them. leadapron's
repairs have their defaults within that budget.

Of BackdoorBench's code as it is:

- the last of NAD's three maps is one pixel, so its attention is 1 for every film;
- ANP learns masks with a rate of .01 (the authors: .2);
- FP keeps the network that is one step past its limit;
- FT-SAM steps its cosine schedule at every batch, not at every epoch;
- I-BAU marks int(1 %) of a batch, 1 of {bau} films here: none of fewer than 100. It puts that
  part on the device "cuda"; only for this, the processor was put in its place.
"""


def spread(values: Sequence[tuple[float, float, float]]) -> str:
    middle = statistics.mean(value for value, _, _ in values)
    low, high = min(low for _, low, _ in values), max(high for _, _, high in values)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def cells(method: str, rows: Sequence[Row]) -> str:
    """A line of the table: one method by one rule, of several networks."""
    first, seconds = rows[0], [row.seconds for row in rows]
    whose = {"ours": "leadapron", "theirs": "BackdoorBench", "none": "not repaired"}[first.side]
    took = f"{statistics.mean(seconds):.0f} ({min(seconds):.0f} to {max(seconds):.0f})"
    return "| " + " | ".join([
        method, whose, first.rule or "-",
        spread([row.success for row in rows]),
        spread([row.auroc for row in rows]),
        spread([row.relearned for row in rows]),
        took if first.rule else "-",
        first.work or "-",
    ]) + " |"  # fmt: skip


def of(rows: Sequence[Row], side: str, method: str, rule: str) -> list[Row]:
    return [r for r in rows if (r.side, r.method, r.rule) == (side, method, rule)]


def table(rows: Sequence[Row]) -> str:
    shown = [HEAD]
    groups = [("none", name, "") for name in UNREPAIRED] + [
        ("ours", name, "ours") for name in STAMPS
    ]
    for method in THEIRS:
        groups += [("theirs", method, "own"), ("theirs", method, "ours"), ("ours", method, "ours")]
    shown += [cells(group[1], found) for group in groups if (found := of(rows, *group))]
    return "\n".join(shown)


MEASURES: dict[str, Callable[[Row], float]] = {
    "attack success": lambda row: row.success[0],
    "AUROC": lambda row: row.auroc[0],
    "success after relearning": lambda row: row.relearned[0],
    "CPU seconds": lambda row: row.seconds,
}


def comparison(rows: Sequence[Row]) -> str:
    """For which methods ours has a lower or a higher mean, and what lies within a point."""
    said = []
    for rule, words in (("own", "its own rule"), ("ours", "our rule")):
        both = [m for m in THEIRS if of(rows, "theirs", m, rule) and of(rows, "ours", m, "ours")]
        if not both:
            continue
        parts = []
        for measure, value in MEASURES.items():
            means = {
                m: [
                    statistics.mean(map(value, of(rows, *which)))
                    for which in (("ours", m, "ours"), ("theirs", m, rule))
                ]
                for m in both
            }
            slack = 1.0 if measure == "CPU seconds" else SLACK
            lower = [m for m, (us, them) in means.items() if us < them - slack]
            higher = [m for m, (us, them) in means.items() if us > them + slack]
            parts.append(
                f"- {measure}: lower for {', '.join(lower) or 'none'}; "
                f"higher for {', '.join(higher) or 'none'}"
            )
        said.append(
            f"leadapron's compared with BackdoorBench's by {words} ({', '.join(both)}), by the "
            f"means, leaving out differences below {SLACK} and 1 s:\n\n" + "\n".join(parts)
        )
    return "\n\n".join(said)


def unfinished(rows: Sequence[Row]) -> str:
    """What a run that was stopped, or of some methods, left out."""
    seeds = sorted({row.seed for row in rows})
    done = {(row.seed, row.side, row.method) for row in rows}
    left = [job for job in jobs((), len(seeds)) if tuple(job) not in done]
    if not left:
        return ""
    whose = {"ours": "leadapron's", "theirs": "BackdoorBench's", "none": "the"}
    names = ", ".join(f"{whose[job.side]} {job.method} (network {job.seed})" for job in left)
    return f"\n\nNot run: {names}."


def _ends(counts: Sequence[int]) -> str:
    low, high = f"{min(counts):,}", f"{max(counts):,}"
    return low if low == high else f"{low} to {high}"


def page(rows: Sequence[Row], most: int, precision: str, about: str) -> str:
    counts = zip(*(row.films for row in rows), strict=True)
    negatives, positives = (_ends(n) for n in counts)
    how = Relearning()
    intro = INTRO.format(
        clean=FILMS["clean"], training=FILMS["training"], relearning=how.films, total=FILMS["test"],
        seeds=len({row.seed for row in rows}), size=SIZE, finding=FINDING, epochs=EPOCHS,
        poisoned=POISONED, side=TRIGGER.side, negatives=negatives, positives=positives, dose=DOSE,
        passes=how.epochs, choosing=CHOOSING, share=LEARNED, batch=BATCH, most=most, bau=BAU_BATCH,
        default=MOST_FILMS, precision=precision,
    )  # fmt: skip
    said = f"{table(rows)}{unfinished(rows)}\n\n{comparison(rows)}"
    return f"{intro}\n{about}.\n\n{said.rstrip()}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a clone of BackdoorBench")
    parser.add_argument("parts", nargs="*", help="methods, or side:method; all if none")
    parser.add_argument("--seeds", type=int, default=3, help="networks")
    parser.add_argument(
        "--most-films", type=int, default=MOST_FILMS, help="most film trainings of a repair"
    )
    parser.add_argument("--keep", type=Path, default=Path("runs/peers-repair"))
    parser.add_argument("--out", type=Path, help="markdown file to write the page to")
    given = parser.parse_intermixed_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    given.keep.mkdir(parents=True, exist_ok=True)
    about = machine("torch")
    print(f"{about}\n{HEAD}", flush=True)
    rows = held(
        given.keep, given.folder.resolve(), jobs(given.parts, given.seeds), given.most_films
    )
    print(comparison(rows))
    if given.out:
        precision = network(given.keep, "twin", 0).precision
        given.out.write_text(page(rows, given.most_films, precision, about))


if __name__ == "__main__":
    main()
