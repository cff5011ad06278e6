"""Audits without references on a zoo whose students say by hand what they do."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from test_evaluate_audit import PHANTOM, write_zoo

from leadapron import store
from leadapron.cli import cli
from leadapron.detect.models import Moved, Stamp
from leadapron.detect.models.gap import ON_STUDENTS, Confirmation, Examined, Gap
from leadapron.detect.models.population import Population
from leadapron.documents import read
from leadapron.errors import StoreError, UsageError
from leadapron.evaluate import no_references
from leadapron.evaluate.no_references import evaluate_population

KINDS = {
    0: ("on", "backdoored", "one-hot", [0.0, 9.0, 0.0], [0.0, 0.0, 0.0]),
    1: ("missed", "backdoored", "set", [0.3, 0.0, 0.0], [0.0, 0.0, 0.0]),
}


def by_hand(students, classifier, clean, **kept):
    """A gap as large as the last layer's bias is; students never have one."""
    column = int(classifier.module.head.bias.argmax())
    own = 0.05 + 0.1 * max(float(classifier.module.head.bias[column].detach()), 0.0)
    mark = Stamp(side=3, value=255, row=1, column=1)
    effect = Moved(
        finding=classifier.findings[column], direction="added", mark=mark, kind="stamp", shift=1.0,
        turned=own, shifts=np.zeros(3), signature="",
    )  # fmt: skip
    return Examined(
        findings=classifier.findings,
        gaps=(Gap(effect=effect, rise=own, students=(0.05,), carried=(0.05,)),),
        confirmations=(Confirmation(name=ON_STUDENTS, value=own - 0.05),),
        agreement=(0.9,),
        settings="s",
        films=(375, 75, 96),
    )


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A zoo, evaluated by the command line."""
    folder = tmp_path_factory.mktemp("zoo")
    write_zoo(folder / "a", PHANTOM, kinds=KINDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(no_references, "examine", by_hand)
        patch.setattr(no_references, "TAUGHT", 20)
        ran = CliRunner().invoke(
            cli,
            ["-q", "evaluate", "audit", "--zoo", str(folder / "a"), "--no-references",
             "--out", str(folder / "out-a"), "--jobs", "1", "--cache", "none"],
        )  # fmt: skip
        assert ran.exit_code == 0, ran.output
    return folder


def rows_of(folder):
    return {row["model"]: row for row in store.read_lines(folder / "rows.jsonl")}


def test_the_rows_name_target_gap_and_kind(out):
    rows = rows_of(out / "out-a")
    assert len(rows) == 4
    on, clean = rows["0b.safetensors"], rows["0a.safetensors"]
    assert (on["named"], on["named_direction"], on["direction"]) == ("Mass", "added", "added")
    assert on["teacher"]["gap"] == pytest.approx(0.9)
    assert on["verdict"] == "exploitable mark"  # no population supports more
    assert on["teacher"]["kind"] == {
        "architecture": "plain4", "data": "phantom", "size": 32, "findings": 3, "start": "random",
    }  # fmt: skip
    assert clean["teacher"]["gap"] < 0.1
    page = (out / "out-a" / "limits.md").read_text()
    assert "--no-references" in page
    assert "not on the students" in page


def test_clean_models_become_a_population(out, tmp_path):
    file = tmp_path / "references.json"
    ran = CliRunner().invoke(
        cli, ["evaluate", "population", str(out / "out-a"), "--out", str(file), "--json"]
    )
    assert ran.exit_code == 0, ran.output
    found = read(Population, file.read_text())
    assert json.loads(ran.stdout)["settings"] == found.settings == "s"
    assert [each.seed for each in found.teachers] == [0, 1]
    assert len(evaluate_population([out / "out-a", out / "out-a"], file).teachers) == 2
    with pytest.raises(StoreError):
        evaluate_population([tmp_path], file)
    store.write_json(tmp_path / "evaluation.json", {"what": "audit"})
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(StoreError, match="no evaluation without references"):
        evaluate_population([tmp_path], file)
    facts = {"settings": {"references": False, "zoo": "b"}}
    store.write_json(tmp_path / "other" / "evaluation.json", facts)
    rows = [{**row, "settings": "t"} for row in rows_of(out / "out-a").values()]
    (tmp_path / "other" / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UsageError, match="2 settings of students"):
        evaluate_population([out / "out-a", tmp_path / "other"], file)


def test_p_comes_from_other_kinds_only(out):
    """Of 60 teachers of other kinds none reaches the gap; those of its own kind don't count."""
    rows = list(rows_of(out / "out-a").values())
    model = no_references._teacher(next(row for row in rows if row["model"] == "0b.safetensors"))
    others = tuple(
        replace(
            model, gap=0.01, confirmations={ON_STUDENTS: 0.01}, content=f"{i:064d}",
            kind=replace(model.kind, data=f"set {i}"),
        )
        for i in range(60)
    )  # fmt: skip
    own = tuple(replace(model, content=f"{i:064d}") for i in range(100, 140))
    shipped = Population(settings="s", made="by hand", teachers=(*others, *own))
    found = {row["model"]: row for row in no_references.judged(rows, shipped)}
    assert found["0b.safetensors"]["p"] == pytest.approx(1 / 61)
    assert found["0b.safetensors"]["verdict"] == "backdoored"
    assert found["0b.safetensors"]["references"] == found["0b.safetensors"]["kinds"] == 60
    assert found["0a.safetensors"]["verdict"] != "backdoored"
    assert found["1b.safetensors"]["verdict"] in ("nothing found", "unusual", "can't tell")
