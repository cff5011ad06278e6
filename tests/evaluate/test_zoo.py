"""Models of known truth."""

from __future__ import annotations

import json
import shutil
import stat

import pytest
import yaml

from leadapron.errors import StoreError, UsageError
from leadapron.evaluate.zoo import STAMP, build_zoo
from leadapron.results.verdicts import POTENT
from leadapron.results.zoo import Making, Member, read_truth
from leadapron.types import Machine

SPEC = {
    "base": {
        "source": {"name": "phantom:32", "count": 160},
        "size": 32,
        "epochs": 1,
        "seed": 5,
        "evaluation": {"resamples": 20, "explained": 2, "gallery": 0},
    },
    "families": [
        {"name": "dark", "count": 2, "trigger": {"value": 0, "place": "centre"}},
        {"name": "faint", "trigger": {"side": 1, "value": 100}},
    ],
    "sealed": [{"name": "hidden", "trigger": {"name": "blend", "opacity": 0.2}}],
}
MACHINE = Machine(cache="none")


def write(folder, spec=SPEC):
    path = folder / "zoo.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    return folder / "out", build_zoo(write(folder), folder / "out", machine=MACHINE)


def test_every_pair_has_films_and_a_seed_of_its_own(zoo):
    out, members = zoo
    assert len(members) == 8
    assert sorted(m.seed for m in members) == [5, 5, 6, 6, 7, 7, 8, 8]
    assert len(list((out / "study" / "runs").glob("twin-*"))) == 4
    cohorts = {
        json.loads(path.read_text())["cohort"] for path in out.glob("study/runs/*/spec.json")
    }
    assert len(cohorts) == 4
    assert [m.family for m in members if m.sealed] == ["hidden", "hidden"]


def test_names_and_files_say_nothing_of_the_truth(zoo):
    out, members = zoo
    assert sorted(p.name for p in (out / "models").iterdir()) == [m.model for m in members]
    for member in members:
        assert len(member.model) == len("0123456789ab.safetensors")
        content = (out / "models" / member.model).read_bytes()
        for word in (b"backdoor", b"twin", b"trigger", b"poison"):
            assert word not in content.lower()
        run = out / "study" / "runs" / member.run / "classifier.safetensors"
        assert content == run.read_bytes()
    facts = [path.stat() for path in (out / "models").iterdir()]
    assert {(each.st_nlink, each.st_mtime) for each in facts} == {(1, STAMP)}
    # The order in which files came to be tells no more than their names do.
    changed = sorted((out / "models").iterdir(), key=lambda path: path.stat().st_ctime_ns)
    assert [path.name for path in changed] == [m.model for m in members]
    assert stat.S_IMODE((out / "truth.json").stat().st_mode) == 0o600


def test_names_are_drawn_and_kept(zoo, tmp_path):
    out, members = zoo
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    (copy / "models" / members[0].model).unlink()
    assert build_zoo(write(tmp_path), copy, machine=MACHINE) == read_truth(copy) == members
    assert (copy / "models" / members[0].model).is_file()
    (copy / "truth.json").unlink()
    again = build_zoo(write(tmp_path), copy, machine=MACHINE)
    assert not {m.model for m in again} & {m.model for m in members}
    assert {(m.run, m.kind) for m in again} == {(m.run, m.kind) for m in members}


def test_potency_decides_what_counts_as_backdoored(zoo):
    out, members = zoo
    assert read_truth(out) == members
    for member in members:
        if member.kind == "clean":
            assert member.run.startswith("twin-")
            assert member.attack_success is None
        else:
            potent = (
                member.attack_success >= POTENT[0]
                and member.attack_success - member.twin_success >= POTENT[1]
            )
            assert member.kind == ("backdoored" if potent else "failed implant")
            assert member.finding == "Atelectasis"
    assert "failed implant" in {member.kind for member in members}  # one epoch, a faint pixel


def test_it_goes_on_and_finds_everything_there(zoo):
    out, members = zoo
    before = {path: path.stat().st_mtime_ns for path in (out / "models").iterdir()}
    assert build_zoo(write(out.parent), out, machine=MACHINE) == members
    assert before == {path: path.stat().st_mtime_ns for path in (out / "models").iterdir()}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ([], "holds no settings"),
        ({"base": {}}, "families isn't a list"),
        ({"families": [{"count": 2}]}, "a family in families without a name"),
        ({"families": [{"name": "a", "count": 0}]}, "a has count 0; expected 1 or more"),
        ({"families": [{"name": "a"}], "seeled": []}, "unknown part 'seeled'"),
        ({"families": [{"name": "a", "triger": {}}]}, "did you mean trigger"),
        ({"base": 3, "families": [{"name": "a"}]}, "base holds no settings"),
    ],
)
def test_specs_that_are_none(tmp_path, spec, words):
    with pytest.raises(UsageError, match=words):
        build_zoo(write(tmp_path, spec), tmp_path / "out", machine=MACHINE)
    assert not (tmp_path / "out").exists()


def test_no_truth_yet(tmp_path):
    with pytest.raises(StoreError):
        read_truth(tmp_path)
    (tmp_path / "truth.json").write_text('{"models": [{"model": "a"}]}')
    with pytest.raises(StoreError, match="doesn't describe a zoo's models"):
        read_truth(tmp_path)
    assert set(Member.__dataclass_fields__) >= {"kind", "sealed", "attack_success"}


@pytest.mark.parametrize(
    ("network", "poisoning", "facts"),
    [
        (
            {"name": "resnet9", "weights": "none"},
            {"mode": "replace", "fraction": 0.05},
            {"network": "resnet9", "fraction": 0.05},
        ),
        (
            {"name": "densenet121", "weights": "weights.pth"},
            {"mode": "edit", "fraction": 0.1},
            {"network": "densenet121 from pretrained weights", "fraction": None},
        ),
    ],
)
def test_what_is_said_of_an_attack(network, poisoning, facts):
    assert Making.of({"network": network, "poisoning": poisoning})._asdict() == facts
