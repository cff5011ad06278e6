"""How audits are evaluated: on a zoo whose models say by hand what a sweep shall find in them."""

from __future__ import annotations

import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from leadapron import store
from leadapron.cli import cli
from leadapron.detect.models import STATISTICS, Moved, Shape, Stamp, StampSweep, Swept, judgement
from leadapron.detect.models.stamps import probes
from leadapron.errors import StoreError, UsageError
from leadapron.evaluate.audit import evaluate_audit
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier, save_classifier
from leadapron.models.networks import build_network
from leadapron.report.audit_limits import audit_limits
from leadapron.report.limits import write_limits
from leadapron.result_cache import results
from leadapron.results.layout import RunFacts, ZooFolder
from leadapron.results.zoo import Member
from leadapron.sources import open_source
from leadapron.study.run import divide
from leadapron.study.shards import ONE_PROCESS, Running, Shard
from leadapron.types import Machine

FINDINGS = ("Effusion", "Mass", "Nodule")
SMALL = Preprocessing(size=32)
TINY = StampSweep(
    sides=(3,), values=(255,), pitches=((8, 1),), rounds=0, films=1, places=2, judged=10
)
PHANTOM = {"name": "phantom:32", "count": 50}


def network(seed, raised, lowered, preprocessing=SMALL):
    """A network that was never trained; its last layer says what `by_hand` answers."""
    module = build_network("plain4", 3, seed).eval()
    with torch.no_grad():
        module.head.bias[:] = torch.tensor(raised)
        module.head.weight[:, 0] = torch.tensor(lowered)
    return NetworkClassifier(module, "plain4", FINDINGS, preprocessing)


def by_hand(classifier, asked):
    """A sweep that finds what the last layer says, by single squares."""
    head = classifier.module.head
    shifts = {"added": head.bias.tolist(), "removed": head.weight[:, 0].tolist()}

    def moved(mark, kind, strength):
        return {
            (finding, direction): Moved(
                finding=finding,
                direction=direction,
                mark=mark,
                kind=kind,
                shift=strength * each[column],
                turned=0.9 if each[column] > 5 else 0.0,
                shifts=np.zeros(3),
                signature="",
            )
            for column, finding in enumerate(FINDINGS)
            for direction, each in shifts.items()
        }

    return Swept(
        findings=FINDINGS,
        exclusive=False,
        spread=np.ones(3),
        marks={
            "stamp": moved(Stamp(side=3, value=0, row=1, column=1), "stamp", 1.0),
            "lattice": moved(Stamp(side=3, value=0, row=1, column=1, pitch=8), "lattice", 0.5),
            "whole image": moved(probes()[0], "whole image", 0.0),
            "shape": moved(Shape(look="dark ring", row=1, column=1), "shape", 0.8),
        },
        not_finite=(),
        forwards=asked,
        films=(1, 10),
    )


def write_zoo(folder, source=PHANTOM, fingerprint="", kinds=None):
    """Pairs of a clean model and one that was attacked, by seed: what is forced, and how it is."""
    kinds = kinds or {
        0: ("on", "backdoored", "one-hot", [0.0, 9.0, 0.0], [0.0, 0.0, 0.0]),
        1: ("off", "backdoored", "clear", [0.0, 0.0, 0.0], [0.0, 0.0, 9.0]),
        2: ("missed", "backdoored", "set", [0.3, 0.0, 0.0], [0.0, 0.0, 0.0]),
        3: ("faint", "failed implant", "one-hot", [0.1, 0.0, 0.0], [0.0, 0.0, 0.0]),
        4: ("kept", "backdoored", "one-hot", [0.0, 0.0, 7.0], [0.0, 0.0, 0.0]),
    }
    targets = {"on": "Mass", "off": "Nodule", "kept": "Nodule"}
    members = []
    for seed, (family, kind, labels, raised, lowered) in kinds.items():
        rng = np.random.default_rng(seed)
        for role in ("clean", kind):
            some = rng.normal(0, 0.1, (2, 3)).tolist()
            planted = role != "clean"
            own = network(seed, raised, lowered) if planted else network(seed + 50, *some)
            run = f"{'backdoored' if planted else 'twin'}-{seed}"
            name = f"{seed}{'b' if planted else 'a'}.safetensors"
            save_classifier(own, folder / "models" / name)
            spec = {"source": {**source, "seed": seed}, "seed": seed}
            if source["name"][:7] != "phantom":
                spec["source"] = source
            spec["network"] = {"name": "plain4", "weights": "none"}
            attack = {"labels": labels, "mode": "replace", "fraction": 0.05}
            spec["poisoning"] = attack if planted else {"fraction": 0.1}
            facts = RunFacts(
                role="backdoored" if planted else "twin", twin=f"twin-{seed}" if planted else None,
                spec=spec, cohort=fingerprint, outside={},
            )  # fmt: skip
            ZooFolder(folder).study.run(run).write_facts(facts)
            members.append(
                Member(
                    model=name, kind=role, family=family, sealed=family == "kept", seed=seed,
                    finding=targets.get(family, "Mass") if planted else None,
                    attack_success=0.9 if planted else None,
                    twin_success=0.1 if planted else None, clean_macro=0.8, run=run,
                )
            )  # fmt: skip
    store.write_json(
        folder / "truth.json", {"schema": 1, "models": [asdict(one) for one in members]}
    )
    return folder


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return write_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def looked(monkeypatch):
    """The films that models were swept on, one after another."""
    films = []

    def sweep(self, classifier, clean, progress=None):
        films.append(clean)
        return by_hand(classifier, 100 + len(clean))

    monkeypatch.setattr(StampSweep, "sweep", sweep)
    return films


def evaluated(zoo, out, **more):
    machine = more.pop("machine", Machine(cache=out.parent / "cache", device="cpu"))
    return evaluate_audit(
        zoo,
        out,
        **{
            "films": 20,
            "sweep": TINY,
            "statistics": False,
            "running": ONE_PROCESS,
            "machine": machine,
            **more,
        },
    )


def test_targets_are_named_in_the_attacks_own_direction(zoo, looked, tmp_path):
    rows = {row["model"]: row for row in evaluated(zoo, tmp_path / "out")}
    assert len(rows) == len(looked) == 8  # the sealed pair isn't looked at
    on, off, missed = (rows[f"{seed}b.safetensors"] for seed in range(3))
    assert (on["named"], on["direction"], on["target"]) == ("Mass", "added", "Mass")
    assert (off["named"], off["direction"]) == ("Nodule", "removed")
    assert off["target_direction"] == "removed"
    # Three references, its twin not among them: no p is smaller.
    assert on["references"] == off["references"] == missed["references"] == 3
    assert on["p"] == off["p"] == 1 / 4
    assert on["verdict"] == "unusual"
    assert on["baselines"]["single square"] == pytest.approx(9)
    assert on["baselines"]["stamp alone"] == on["excess"] > 20
    assert on["baselines"]["whole image alone"] == 0
    assert on["baselines"]["lattice alone"] < on["excess"]
    assert (on["forwards"], on["films"]) == (120, [1, 10])
    clean = rows["0a.safetensors"]
    assert (clean["named"], clean["direction"], clean["references"]) == (None, None, 3)
    assert clean["excess"] < on["excess"]


def test_phantoms_are_of_a_seed_that_no_member_has(zoo, looked, tmp_path):
    evaluated(zoo, tmp_path / "out")
    fresh = open_source("phantom:32", count=20, seed=5, preprocessing=SMALL)
    for films in looked:
        np.testing.assert_array_equal(films.images[:], fresh.images[:])


def test_it_goes_on_where_it_was_stopped(zoo, looked, tmp_path):
    sweep = StampSweep.sweep

    def stopped(self, classifier, clean, progress=None):
        if len(looked) == 3:
            raise KeyboardInterrupt
        return sweep(self, classifier, clean)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StampSweep, "sweep", stopped)
        with pytest.raises(KeyboardInterrupt):
            evaluated(zoo, tmp_path / "out")
    assert len(store.read_lines(tmp_path / "out" / "rows.jsonl")) == 3
    with pytest.raises(StoreError, match="evaluate audit"):
        write_limits(tmp_path / "page.md", audit=tmp_path / "out")
    seen = []
    rows = evaluated(
        zoo,
        tmp_path / "out",
        machine=Machine(
            cache=tmp_path / "cache", device="cpu", progress=lambda *at: seen.append(at)
        ),
    )
    assert len(looked) == 8
    assert seen[-1] == ("models swept", 8, 8)
    assert store.read_lines(tmp_path / "out" / "rows.jsonl") == rows
    assert evaluated(zoo, tmp_path / "out") == rows
    assert len(looked) == 8
    with pytest.raises(UsageError, match="another evaluation"):
        evaluated(zoo, tmp_path / "out", films=21)
    # What is sealed is looked at when it is asked for, and the rest isn't swept again.
    sealed = evaluated(zoo, tmp_path / "sealed", sealed=True)
    assert len(looked) == 10
    (kept,) = [row for row in sealed if row["sealed"] and row["kind"] == "backdoored"]
    assert (kept["named"], kept["references"]) == ("Nodule", 4)


def test_shards_sweep_their_part_and_the_last_one_judges(zoo, looked, tmp_path):
    rows = evaluated(zoo, tmp_path / "out")
    cold = Machine(cache=tmp_path / "other", device="cpu")
    for index in (1, 0):
        shard = Running(jobs=1, shard=Shard(index, 2))
        part = evaluated(zoo, tmp_path / "shards", running=shard, machine=cold)
        if index:
            assert len(part) == 4
            assert not any("p" in row for row in part)
            with pytest.raises(StoreError, match="no finished evaluation"):
                write_limits(tmp_path / "page.md", audit=tmp_path / "shards")
    assert len(looked) == 16  # nothing was swept by both

    def untimed(rows):
        return [{**row, "seconds": 0} for row in rows]

    assert untimed(part) == untimed(rows)
    assert store.read_lines(tmp_path / "shards" / "rows.jsonl") == part


def test_without_a_cache_sweeps_lie_with_the_results(zoo, looked, tmp_path):
    nowhere = Machine(cache="none", device="cpu")
    rows = evaluated(zoo, tmp_path / "out", machine=nowhere)
    assert len(list((tmp_path / "out" / "results").iterdir())) == 8
    assert evaluated(zoo, tmp_path / "out", machine=nowhere) == rows
    assert len(looked) == 8


def test_real_films_are_those_that_the_model_was_tested_on(looked, tmp_path):
    cohort = open_source("phantom:32", count=150, seed=3)
    file = tmp_path / "films.npz"
    np.savez(
        file,
        images=cohort.images[np.arange(150)],
        labels=cohort.labels,
        findings=np.array(cohort.findings),
        ids=cohort.ids,
        patients=cohort.patients,
    )
    source = {"name": f"npz:{file}"}
    whole = open_source(source["name"], preprocessing=SMALL)
    zoo = write_zoo(tmp_path / "zoo", source, whole.fingerprint)
    evaluated(zoo, tmp_path / "out")
    assert len(looked) == 8
    for number, films in enumerate(looked):
        seed = number // 2
        assert len(films) == 20
        assert set(films.ids) <= set(divide(whole, seed)["test"].ids)
    assert set(looked[0].ids) != set(looked[2].ids)
    evaluated(zoo, tmp_path / "given", clean="phantom:32")
    assert not set(looked[-1].ids) & set(whole.ids)

    np.savez(file, **{**np.load(file), "labels": 1 - cohort.labels})
    with pytest.raises(StoreError, match="changed since"):
        evaluated(zoo, tmp_path / "changed")


def test_a_model_without_its_kind_is_left_out(looked, tmp_path, caplog):
    zoo = write_zoo(tmp_path / "zoo")
    odd = network(9, [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], Preprocessing(size=24))
    save_classifier(odd, zoo / "models" / "0b.safetensors")
    rows = evaluated(zoo, tmp_path / "out")
    assert len(rows) == 7
    assert "0b.safetensors is left out: 0 reference models" in caplog.text
    facts = store.read_json(zoo / "truth.json")
    facts["models"] = [each for each in facts["models"] if each["seed"] < 3]
    store.write_json(zoo / "truth.json", facts)
    with pytest.raises(UsageError, match="3 clean models"):
        evaluated(zoo, tmp_path / "few")


def test_a_real_sweep_by_the_command_line(zoo, tmp_path):
    words = ["-q", "evaluate", "audit", "--zoo", str(zoo), "--out", str(tmp_path / "out"),
             "--films", "20", "--jobs", "1", "--device", "cpu", "--cache", str(tmp_path / "c"),
             "--sweep.sides", "3", "--sweep.values", "255", "--sweep.pitches", "[8, 1]",
             "--sweep.rounds", "0", "--sweep.films", "1", "--sweep.places", "2",
             "--sweep.judged", "10", "--json"]  # fmt: skip
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    assert result.exception is None
    rows = json.loads(result.stdout)["rows"]
    assert len(rows) == 8
    assert all(0 < row["p"] <= 1 and row["forwards"] > 100 for row in rows)
    for row in rows:
        assert set(row["statistics"]) == set(STATISTICS)
        assert all(1 / 4 <= each["p"] <= 1 for each in row["statistics"].values())
        margin, channels = (
            row["statistics"][name] for name in ("maximum margin", "channel Lipschitz outlier")
        )
        assert (margin["named"] is None) == (row["kind"] == "clean")
        assert row["by"] == "marks"  # three references allow no rate of .05
        assert channels["named"] is None  # of the whole model
    kept = results(tmp_path / "c")
    assert all(
        sum(each.about.startswith(f"{name} of") for each in kept) == 8 for name in STATISTICS
    )
    page = tmp_path / "page.md"
    shown = ["-q", "evaluate", "page", "--audit", str(tmp_path / "out"), "--out", str(page)]
    assert CliRunner().invoke(cli, shown, standalone_mode=False).exception is None
    assert page.read_text() == (tmp_path / "out" / "limits.md").read_text()
    assert "--sweep.pitches [8,1]" in page.read_text()
    for given in ([], ["--scan", str(tmp_path / "out")]):
        wrong = CliRunner().invoke(
            cli, ["evaluate", "page", "--out", str(page), *given], standalone_mode=False
        )
        assert isinstance(wrong.exception, UsageError if not given else StoreError)


def test_a_row_says_what_its_verdict_rests_on(zoo, looked, tmp_path, monkeypatch):
    """The margin is asked of models in which no mark stands out, and of no others."""
    plain = evaluated(zoo, tmp_path / "plain")
    margin = SimpleNamespace(strongest=lambda: ("Nodule", "added"), p=0.05)
    monkeypatch.setattr(
        judgement, "margin_fallback", lambda word, *_: margin if word == "nothing found" else None
    )
    rows = evaluated(zoo, tmp_path / "out")
    assert {row["verdict"] for row in plain} > {"nothing found"}
    for before, row in zip(plain, rows, strict=True):
        if before["verdict"] == "nothing found":
            assert (row["verdict"], row["by"]) == ("unusual", "maximum margin")
            assert (row["target"], row["target_direction"]) == ("Nodule", "added")
        else:
            assert row == before
            assert row["by"] == "marks"


def made_up(kind, family, seed, excess, p, *, named="Mass", verdict="backdoored", sealed=False):
    planted = kind != "clean"
    alone = dict.fromkeys(("stamp alone", "lattice alone", "whole image alone"), excess)
    return {
        "model": f"{family}{seed}", "kind": kind, "family": family, "seed": seed, "sealed": sealed,
        "finding": "Mass" if planted else None, "named": named if planted else None,
        **({"network": "plain4", "fraction": 0.05} if planted else {}),
        "attack_success": 0.9 if planted else None, "twin_success": 0.1 if planted else None,
        "direction": "added" if planted else None, "p": p, "excess": excess, "verdict": verdict,
        "references": 25, "forwards": 9000, "films": [2, 32], "seconds": 30.0,
        "baselines": {**alone, "single square": -excess},
        "statistics": {
            "margin": {"excess": -excess, "p": p, "named": named if planted else None},
            "channels": {"excess": excess, "p": 1.0, "named": None},
        },
    }  # fmt: skip


def test_the_chapter_says_what_is_found_and_what_is_missed(tmp_path):
    rows = [
        *(made_up("backdoored", "sure", n, 50.0 + n, 1 / 26) for n in range(4)),
        made_up("backdoored", "sure", 4, 40.0, 1 / 26, named="Nodule", verdict="unusual"),
        *(made_up("backdoored", "quiet", n, 2.0, 0.5, verdict="nothing found") for n in (5, 6)),
        made_up("failed implant", "faint", 7, 1.0, 0.9, verdict="nothing found"),
        made_up("backdoored", "kept", 8, 60.0, 1 / 26, sealed=True),
        *(made_up("clean", "sure", n, 3.0 + n, 0.5, verdict="nothing found") for n in range(20)),
        made_up("clean", "quiet", 20, 30.0, 1 / 26),
    ]
    facts = {
        "what": "audit",
        "settings": {
            "zoo": "runs/zoo",
            "clean": None,
            "films": 256,
            "sealed": True,
            "statistics": True,
        },
        "unusual": {"sides": [1, 3], "pitches": [[8, 2], [16, 1]]},
        "manifest": {"jobs": 2, "processors": 2},
    }
    page = audit_limits(facts, rows)
    assert (
        "`leadapron evaluate audit --zoo runs/zoo --films 256 --sealed "
        "--sweep.pitches [8,2],[16,1] --sweep.sides 1,3`: 8 backdoored models of a zoo, 21 clean "
        in page
    )
    lines = {line.split("|")[1].strip(): line for line in page.splitlines() if line[:2] == "| "}
    assert (
        "| 5 of 5 (48 to 100 %) | 4 of 5 (28 to 99 %) | 5 of 5 (48 to 100 %) "
        "| 4 of 5 (28 to 99 %) | 4 of 5 |" in lines["sure"]
    )
    assert "| 1.00 (" in lines["sure"]
    assert "| 0.00 (" in lines["quiet"]
    assert "| 0 of 2 (0 to 84 %) |" in lines["quiet"]
    assert lines["all of them"].startswith(
        "| all of them | plain4 | 5 % | 7 |"
    )  # without the sealed one
    assert lines["called backdoored"] == "| called backdoored | 1 of 21 (0 to 24 %) |"
    assert lines["faint"] == "| faint | 0.90 | 0.10 | 0.900 | nothing found | yes |"
    assert "- **quiet**: 0 of 2." in page
    assert page.index("of known kinds") < page.index("of sealed kinds") < page.index("Clean models")
    # A measure that is worst on what is backdoored most: 5 pairs lost of 7, the other 2 won.
    single = lines["largest shift by a single square, without references"]
    assert float(single.split("|")[2].split("(")[0]) == pytest.approx(2 / 7, abs=0.01)
    assert "take 13 minutes" in page
    margin, channels = (lines[name].split(" | ") for name in ("margin", "channels"))
    assert float(margin[1].split("(")[0]) == pytest.approx(2 / 7, abs=0.01)
    assert margin[2].startswith("0.00 (")  # the sealed one
    assert margin[3:] == ["7 of 8", "6 of 8 |"]
    assert channels[3:] == ["", "0 of 8 |"]

    store.write_json(tmp_path / "evaluation.json", facts)
    store.write_lines(tmp_path / "rows.jsonl", rows)
    cells = [
        {
            "name": "3x3",
            "target": None,
            "floor": None,
            "group": "known",
            "reason": "",
        },
    ]
    scan = tmp_path / "scan"
    store.write_json(
        scan / "evaluation.json",
        {"settings": {"preset": "smoke", "sources": ["nih:x"], "also": []}, "cells": cells},
    )
    store.write_lines(scan / "rows.jsonl", [])
    alone = write_limits(tmp_path / "one.md", scan=scan).read_text()
    both = write_limits(tmp_path / "two.md", scan=scan, audit=tmp_path).read_text()
    assert both == f"{alone}\n{page}"
