"""Methods of others: in every command, in new processes, on resume; and what is refused."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import leadapron as la
from leadapron import plugins, store
from leadapron.attacks.triggers import TRIGGERS
from leadapron.cli import run
from leadapron.detect.films import METHODS, scan_films
from leadapron.detect.inputs import INPUT_DETECTORS, WEIGHTS
from leadapron.errors import LeadapronError, UnknownNameError, UsageError
from leadapron.evaluate.scan import Part, evaluate_scan
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier, save_classifier
from leadapron.models.networks import ARCHITECTURES, build_network
from leadapron.plugins import KINDS, Plugin, load_plugins, loaded_plugins, worker_pool
from leadapron.sources import SOURCES, open_source
from leadapron.study.settings import complete
from leadapron.study.shards import ONE_PROCESS
from leadapron.testing import check_film_method, check_input_detector, check_trigger

EXAMPLES = Path(__file__).parents[1] / "examples"
RING = EXAMPLES / "ring_trigger.py"
RIM = EXAMPLES / "rim_detector.py"
ODD = EXAMPLES / "odd_greys_method.py"


@pytest.fixture
def forget():
    """What makes this process forget all plugins, as a new one would not know them."""
    places = [path.split(":") for path in KINDS.values()]
    registries = [getattr(importlib.import_module(module), name) for module, name in places]
    known = [each._methods for each in registries]
    kept = [*((data, dict(data)) for data in known), (WEIGHTS, dict(WEIGHTS))]

    def forget():
        for data, before in kept:
            data.clear()
            data.update(before)
        plugins._loaded.clear()
        for name in [name for name in sys.modules if name.startswith("leadapron_plugin_")]:
            del sys.modules[name]

    yield forget
    forget()


def study(out, *words):
    settings = ("--source.count", "60", "--size", "32", "--epochs", "1", "--device", "cpu")
    quick = ("--evaluation.resamples", "20", "--evaluation.gallery", "0", "-q")
    return run(["study", *settings, *quick, "--out", str(out), *map(str, words)])


def test_a_study_with_a_trigger_of_a_file_and_its_resumption(forget, tmp_path, capfd):
    file, out = tmp_path / "ring.py", tmp_path / "out"
    file.write_text(RING.read_text())
    ring = ("--plugin", file, "--trigger", "ring", "--trigger.radius", "3")
    assert study(out, *ring) == 0
    (first,) = out.glob("runs/backdoored-*")
    assert store.read_json(first / "spec.json")["outside"].keys() == {"trigger ring"}
    assert "plugin" not in (out / "manifest.json").read_text()
    written = (first / "rows.jsonl").stat().st_mtime_ns

    forget()
    assert study(out, *ring) == 0
    assert (first / "rows.jsonl").stat().st_mtime_ns == written

    forget()
    capfd.readouterr()
    assert study(out, "--trigger", "ring") == 4
    said = capfd.readouterr().err
    assert said.startswith("leadapron: unknown trigger 'ring'; known: amplitude, ")
    assert said.endswith("; one of a plugin needs --plugin FILE.py|NAME\n")
    explain = ["explain", str(out), "--out", str(tmp_path / "maps.png"), "-q"]
    assert run(explain) == 4
    assert "unknown trigger 'ring'" in capfd.readouterr().err
    assert run(["report", str(out), "-q"]) == 0  # it runs no code of the trigger's

    forget()
    words = ["--methods", "layer-cam", "--count", "1", "--device", "cpu"]
    assert run(["--plugin", str(file), *explain, *words]) == 0

    forget()
    file.write_text(RING.read_text().replace("< 0.6", "< 0.9"))
    capfd.readouterr()
    assert run(["explain", str(first), *explain[2:], "--plugin", str(file)]) == 2
    assert "the trigger ring changed since" in capfd.readouterr().err


def test_a_gate_with_a_detector_of_a_file(forget, tmp_path, capfd):
    WEIGHTS.clear()  # what other detectors cost doesn't matter here; `forget` restores them
    small = Preprocessing(size=32)
    model = NetworkClassifier(
        module=build_network("resnet9", 3, 0), architecture="resnet9",
        findings=("Mass", "Effusion", "Edema"), preprocessing=small,
    )  # fmt: skip
    save_classifier(model, tmp_path / "model.safetensors")
    marked = open_source("phantom:32", count=1, preprocessing=small).images[np.arange(1)].copy()
    marked[:, 2:5, 2:5] = 255
    Image.fromarray(marked[0]).save(tmp_path / "film.png")
    detector, gate = tmp_path / "rim.py", str(tmp_path / "gate.json")
    detector.write_text(RIM.read_text())
    plugin = ("--plugin", str(detector), "-q")
    model = (str(tmp_path / "model.safetensors"), "--clean", "phantom:32", "--source.count", "160")
    calibrate = ["calibrate", *model, "--false-alarm", "0.1", "--device", "cpu", "--out", gate]
    screen = ["screen", gate, str(tmp_path / "film.png"), "--device", "cpu", "--json"]
    assert run([*calibrate, *plugin]) == 0
    capfd.readouterr()
    assert run([*screen, *plugin]) in (0, 1)
    (film,) = json.loads(capfd.readouterr().out)["films"]
    assert np.isfinite(film["scores"]["bright rim"])

    forget()
    WEIGHTS.clear()
    assert run([*screen, "-q"]) == 2
    words = "the gate uses the detector 'bright rim' (BrightRim), which isn't available; one of a"
    assert words in capfd.readouterr().err
    detector.write_text(RIM.read_text() + "\n")
    assert run([*screen, *plugin]) == 2
    assert "bright rim changed since the gate was calibrated" in capfd.readouterr().err

    facts = store.read_json(Path(gate))
    store.write_json(Path(gate), {**facts, "plugin": str(detector)})
    assert run([*screen, *plugin]) == 4
    assert "gate.json names a plugin (plugin); a plugin is code" in capfd.readouterr().err


def odd_films():
    """300 films, 30 of which have odd grey levels alone, and the finding."""
    clean = open_source("phantom:32", count=300, cache="none")
    images, labels = clean.images[np.arange(300)], clean.labels[:, [clean.column("Mass")]]
    images[:30] |= 1
    labels[:30] = 1
    return replace(clean, images=images, labels=labels, findings=("Mass",), films=None, masks=None)


def test_a_scan_with_a_method_of_a_file(forget, tmp_path, capfd):
    films = odd_films()
    pixels = films.images[np.arange(300)]
    file, out = tmp_path / "odd.py", tmp_path / "out"
    file.write_text(ODD.read_text())
    labels = {"labels": films.labels, "findings": films.findings}
    np.savez(tmp_path / "films.npz", images=pixels, **labels)
    scan = ["scan", f"npz:{tmp_path / 'films.npz'}", "--cache", "none", "-q"]
    assert run(scan) == 0
    assert run([*scan, "--plugin", str(file), "--out", str(out)]) == 1
    assert "1. odd grey levels on 30 films: 100% are labelled Mass" in capfd.readouterr().out
    facts = store.read_json(out / "scan.json")
    assert [each["name"] for each in facts["methods"]][-1] == "odd greys"
    assert facts["evidence"][0]["method"] == "odd greys"
    assert {each["reasons"][0] for each in facts["suspects"]} == {"odd greys: Mass added"}
    page = (out / "scan.html").read_text()
    assert "1. Odd grey levels on 30 films: 100% are labelled Mass" in page
    found = la.scan(pixels, films.labels, findings=["Mass"])
    assert found.verdict.word == "poisoned"
    assert found.scan.evidence[0].method == "odd greys"
    with worker_pool(1) as pool:
        assert pool.submit(scan_films, films).result().evidence[0].method == "odd greys"


def test_an_evaluation_of_scans_goes_on_with_the_same_methods_alone(forget, tmp_path):
    file, out = tmp_path / "odd.py", tmp_path / "out"
    file.write_text(ODD.read_text())
    load_plugins([str(file)])

    def evaluated():
        return evaluate_scan("smoke", [], out, part=Part(clean=0), running=ONE_PROCESS)

    assert evaluated() == []
    forget()
    load_plugins([str(file)])
    assert evaluated() == []
    forget()
    with pytest.raises(UsageError, match=r"another evaluation \(outside is \{.*odd greys"):
        evaluated()


def test_new_processes_have_the_plugins_before_they_are_given_their_objects(forget, tmp_path):
    file = tmp_path / "ring.py"
    file.write_text(RING.read_text())
    (plugin,) = load_plugins([str(file)])
    assert plugin == Plugin(name=str(file), sha256=plugin.sha256, methods=("trigger ring",))
    ring = TRIGGERS["ring"]
    with worker_pool(1, isinstance, (ring(), ring)) as pool:  # the initializer's are unpickled too
        assert pool.submit(ring, radius=5.0).result() == ring(radius=5.0)
        assert pool.submit(loaded_plugins).result() == (plugin,)
    assert load_plugins([str(file)]) == (plugin,)  # once
    with pytest.raises(LeadapronError, match=r"ring\.py was changed while the command ran"):
        plugins._load_again([Plugin(name=str(file), sha256="0" * 64, methods=())])


@pytest.fixture
def installed(tmp_path, monkeypatch, forget):
    """A package of somebody else's with three entry points, one of them broken."""
    (tmp_path / "theirs.py").write_text(RING.read_text().replace('TRIGGERS["ring"] = Ring\n', ""))
    facts = tmp_path / "theirs-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(
        "[leadapron.trigger]\ncircle = theirs:Ring\nbroken = theirs:Rung\n"
        "[leadapron.network]\nnet = theirs:Ring\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("theirs", None)


def test_names_that_are_not_built_in_are_looked_for_in_entry_points(installed):
    assert "circle" not in TRIGGERS
    assert complete({"trigger": "circle"})["trigger"] == {"name": "circle", "radius": 4.0}
    assert TRIGGERS.codes(["patch", "circle"]).keys() == {"trigger circle"}
    assert loaded_plugins() == ()
    (plugin,) = load_plugins(["circle"])  # by --plugin too, with what has no name in a spec
    assert plugin == Plugin(name="circle", sha256="", methods=("trigger circle",))
    with pytest.raises(LeadapronError, match=r"plugin broken \(theirs:Rung\) can't be loaded: Att"):
        TRIGGERS.find("broken")
    with pytest.raises(UsageError, match=r"no plugin 'ring'; .*there are broken, circle, net\)$"):
        load_plugins(["ring"])


def test_a_models_file_names_no_entry_point(installed):
    with pytest.raises(UnknownNameError, match="unknown network 'net'"):
        build_network("net", 3, 0)
    assert "net" not in ARCHITECTURES
    assert ARCHITECTURES.find("net").__name__ == "Ring"  # the user's own words may


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "can't read the plugin .*theirs.py .*; expected a Python file"),
        ("x = 1", r'adds no method; expected a line such as TRIGGERS\["ring"\] = Ring'),
        ("\nx = y", r"can't be loaded: NameError: name 'y' is not defined \(line 2\)"),
        ("def x(:", "can't be loaded: SyntaxError"),
        ("import sys; sys.exit()", "can't be loaded: SystemExit"),
        (
            'from leadapron.attacks.triggers import TRIGGERS; TRIGGERS["patch"] = print',
            "plugin theirs.py: the trigger 'patch' is built in; choose another name for yours",
        ),
    ],
)
def test_plugins_that_cannot_be_loaded_say_why(text, words, tmp_path, forget):
    file = tmp_path / "theirs.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(LeadapronError, match=words):
        load_plugins([str(file)])
    assert loaded_plugins() == ()


def test_two_files_of_one_name_are_refused(tmp_path, forget):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ring.py").write_text(RING.read_text())
    with pytest.raises(
        UsageError, match=r"a/ring\.py and .*b/ring\.py: expected files with different"
    ):
        load_plugins([str(tmp_path / "a" / "ring.py"), str(tmp_path / "b" / "ring.py")])


@pytest.mark.parametrize("command", ["study", "zoo"])
def test_a_file_that_names_a_plugin_is_refused(command, tmp_path, capfd):
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"trigger: ring\nplugins: [{RING}]\n")
    assert run([command, str(spec), "--out", str(tmp_path / "out"), "-q"]) == 4
    assert "names a plugin (plugins); a plugin is code, so it can" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_manifest_that_names_a_plugin_is_refused(tmp_path, capfd):
    (tmp_path / "study.yaml").write_text("{}")
    (tmp_path / "manifest.json").write_text('{"versions": {"plugin": "ring.py"}}')
    assert run(["report", str(tmp_path)]) == 4
    assert "manifest.json names a plugin" in capfd.readouterr().err


def test_a_name_that_begins_like_an_option_is_no_plugin(forget, tmp_path, capfd):
    assert run(["triggers", "--", "--plugin", str(tmp_path / "no.py")]) == 4
    assert "plugin" not in capfd.readouterr().err.partition("(")[0].replace("--plugin", "")


def test_a_source_of_a_plugin_is_met_by_every_way_in(forget, tmp_path):
    file = tmp_path / "few.py"
    file.write_text(
        "from leadapron.sources import SOURCES\n"
        "def few(argument, preprocessing, cache, *, count: int = 12):\n"
        '    return SOURCES["phantom"](argument, preprocessing, cache, count=count)\n'
        'SOURCES["few"] = few\n'
    )
    load_plugins([str(file)])
    assert len(open_source("few:32")) == 12
    assert len(open_source("few:32 + phantom:32", count=5)) == 10
    assert SOURCES.codes(["few"])


def test_registries_hold_what_their_kind_says():
    for kind, place in KINDS.items():
        module, _, name = place.partition(":")
        assert getattr(importlib.import_module(module), name).kind == kind
    assert INPUT_DETECTORS.words == "input detector"


def test_the_example_of_contributing_works_as_it_is_shown(forget, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (EXAMPLES.parent / "CONTRIBUTING.md").read_text()
    method, check = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    Path("stripe.py").write_text(method)
    exec(compile(check, "check", "exec"), {"TRIGGERS": TRIGGERS})
    commands = re.findall(r"^\$ leadapron (.*)", page, re.MULTILINE)
    forget()
    (command,) = commands
    assert run([*shlex.split(command), "-q"]) == 0
    assert Path("stripe.png").is_file()


def test_contributing_has_a_row_for_every_kind():
    page = (EXAMPLES.parent / "CONTRIBUTING.md").read_text()
    rows = re.findall(
        r"^\| `(\w+)` \| .* \| `(\S+)` \| .* \| `check_(\w+)` \|$", page, re.MULTILINE
    )
    assert [(kind, place) for kind, place, _ in rows] == list(KINDS.items())
    assert all(kind == check for kind, _, check in rows)


def test_the_example_plugins_keep_their_contracts(forget):
    load_plugins([str(RING), str(RIM), str(ODD)])
    check_trigger(TRIGGERS["ring"]())
    check_input_detector(INPUT_DETECTORS["bright rim"])
    check_film_method(METHODS["odd greys"], poisoned=odd_films())


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGHUP])
def test_the_processes_of_a_pool_end_with_the_one_that_made_it(end):
    code = (
        "import os, time\n"
        "from leadapron.plugins import worker_pool\n"
        "pool = worker_pool(1)\n"
        "print(pool.submit(os.getpid).result(), flush=True)\n"
        "pool.submit(time.sleep, 600).result()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    parent.send_signal(end)
    try:
        parent.communicate(timeout=30)  # till nobody is left who could write
    except subprocess.TimeoutExpired:
        os.kill(worker, signal.SIGKILL)
        raise
    assert parent.returncode == -end
