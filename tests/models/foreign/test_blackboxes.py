"""Models that can only be asked: functions, TorchScript, ONNX."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import sys
import tempfile
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from foreign_models import onnx_file
from leadapron.cli import main
from leadapron.confinement import missing
from leadapron.errors import DataError, LeadapronError, StoreError, UnknownNameError, UsageError
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.foreign import (
    NORMALISATIONS,
    BlackBoxClassifier,
    Normalisation,
    open_model,
    opening,
    process,
    worker,
)
from leadapron.models.foreign.probing import probed
from leadapron.models.networks import build_network
from leadapron.models.parsing import external as external_module
from leadapron.models.parsing.external import content_of
from leadapron.models.parsing.reading import open_file
from leadapron.models.stated import ModelSettings

FINDINGS = ("Effusion", "Mass")
SMALL = Preprocessing(size=16)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 16, 16), np.uint8)
HALF = PIXELS / 255.0


class Corners(torch.nn.Module):
    """Two findings: the mean of the image's left and of its right half; three channels."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        if x.shape[1] != 3:
            raise ValueError("three channels")
        sides = [x[:, :, :, :8].mean((1, 2, 3)), x[:, :, :, 8:].mean((1, 2, 3))]
        return self.scale * torch.stack(sides, 1)


def expected(normalisation):
    scale = NORMALISATIONS[normalisation]
    parts = [(HALF - m) / s for m, s in zip(scale.mean, scale.std, strict=True)]
    x = np.mean(parts, 0)
    return 3 * np.stack([x[:, :, :8].mean((1, 2)), x[:, :, 8:].mean((1, 2))], 1)


def asked(run, **options):
    options = {"preprocessing": SMALL, "normalisation": NORMALISATIONS["unit"], **options}
    return BlackBoxClassifier(run, FINDINGS, **options)


def sides(images):
    return np.stack([images[:, 0, :, :8].mean((1, 2)), images[:, 0, :, 8:].mean((1, 2))], 1)


def test_what_is_asked_is_scaled_and_cut_into_batches():
    seen = []

    def run(images):
        seen.append(images)
        return sides(images)

    model = asked(run, batch=2)
    np.testing.assert_allclose(model.logits(PIXELS), sides(HALF[:, None]), atol=1e-6)
    assert [x.shape for x in seen] == [(2, 1, 16, 16), (2, 1, 16, 16), (1, 1, 16, 16)]
    assert {x.dtype for x in seen} == {np.dtype(np.float32)}
    wide = PIXELS.astype(np.uint16) * 257
    np.testing.assert_allclose(model.logits(wide), model.logits(PIXELS), atol=1e-6)
    colours = replace(model, channels=3, normalisation=NORMALISATIONS["imagenet"])
    colours.logits(PIXELS)
    assert seen[-1].shape == (1, 3, 16, 16)
    assert not np.array_equal(seen[-1][0, 0], seen[-1][0, 1])


def test_logits_and_probabilities_fit_together():
    given = np.array([[0.2, 0.8], [0.5, 0.5], [0.0, 1.0]], np.float32)
    model = asked(lambda images: given[: len(images)], gives="probabilities")
    images = PIXELS[:3]
    assert np.array_equal(model.probabilities(images), given)
    np.testing.assert_allclose(model.logits(images)[0], [np.log(0.25), np.log(4)], rtol=1e-5)
    assert np.isfinite(model.logits(images)).all()
    other = replace(model, gives="logits")
    np.testing.assert_allclose(other.probabilities(images), 1 / (1 + np.exp(-given)), rtol=1e-6)
    shares = replace(model, gives="logits", head="softmax").probabilities(images)
    np.testing.assert_allclose(shares, np.exp(given) / np.exp(given).sum(1)[:, None], rtol=1e-6)
    back = replace(model, head="softmax")
    log = back.logits(images)[0]
    assert log[1] - log[0] == pytest.approx(np.log(4))


def test_other_answers_are_refused():
    with pytest.raises(DataError, match=r"shape \(5, 3\) for 5 images"):
        asked(lambda images: np.zeros((len(images), 3), np.float32)).logits(PIXELS)
    with pytest.raises(UsageError, match="no images"):
        asked(sides).logits(PIXELS[:0])
    with pytest.raises(UsageError, match="3 means for a model of 1 channel"):
        asked(sides, normalisation=NORMALISATIONS["imagenet"])


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the owner's, by its source."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "owners_models", None)

    def write(source):
        (tmp_path / "owners_models.py").write_text(source)
        sys.modules.pop("owners_models", None)
        return "owners_models"

    return write


def test_a_function_of_the_owner(module):
    name = module(
        "import sys\n"
        f"sys.path.insert(0, {str(__file__).rpartition('/')[0]!r})\n"
        "from test_blackboxes import Corners\n"
        "def make():\n    return Corners().train()\n"
        "def classifier():\n    from test_blackboxes import own\n    return own()\n"
        "def nothing():\n    return 3\n"
        "def fails():\n    raise RuntimeError('no weights\\nhere')\n"
    )
    found = open_model(f"{name}:make", FINDINGS, preprocessing=SMALL, device="cpu")
    np.testing.assert_allclose(found.classifier.logits(PIXELS), expected("imagenet"), atol=1e-5)
    assert found.notes == (
        "ASSUMED: the normalisation 'imagenet', only because it has 3 channels; a function's "
        "model doesn't state it.",
    )
    own_one = open_model(f"{name}:classifier", device="cpu").classifier
    assert isinstance(own_one, NetworkClassifier)
    for spec, findings, kind, words in (
        (f"{name}:make", None, UsageError, "has 2 outputs and doesn't name them"),
        (f"{name}:make", ("A", "B", "C"), UsageError, "has 2 outputs and 3 are named"),
        (f"{name}:classifier", ("A", "B"), UsageError, "names its own findings"),
        (f"{name}:nothing", FINDINGS, UsageError, "returned a int; expected a classifier"),
        (f"{name}:fails", FINDINGS, LeadapronError, "fails failed: no weights"),
        (f"{name}:mke", FINDINGS, UnknownNameError, "did you mean make"),
        ("no_such_module:make", FINDINGS, UsageError, "no module no_such_module"),
    ):
        with pytest.raises(kind, match=words) as caught:
            open_model(spec, findings, preprocessing=SMALL, device="cpu")
        assert "\n" not in str(caught.value)
    with pytest.raises(StoreError, match="its model failed: three channels"):
        open_model(f"{name}:make", FINDINGS, preprocessing=SMALL, channels=1, device="cpu")


def own():
    return NetworkClassifier(build_network("resnet9", 2, 0).eval(), "resnet9", FINDINGS, SMALL)


def test_a_module_that_fails_is_named(module):
    name = module("raise OSError('no disk')\n")
    with pytest.raises(LeadapronError, match="importing owners_models failed: no disk"):
        open_model(f"{name}:make")


def test_a_file_is_never_taken_for_a_function(module, tmp_path, monkeypatch):
    name = module("raise SystemExit('imported')\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{name}:make").write_bytes(b"no model at all")
    with pytest.raises(StoreError, match="isn't a known model file"):
        open_model(f"{name}:make")


def scripted(model, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(model), path)


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "model.pt"
    scripted(Corners(), path)
    return open_model(path, FINDINGS, preprocessing=SMALL, trust_programs=True)


def test_torchscript(script):
    assert script.origin == "TorchScript, opened as a black box"
    assert script.classifier.channels == 3
    assert any("only because it has 3 channels" in note for note in script.notes)
    np.testing.assert_allclose(script.classifier.logits(PIXELS), expected("imagenet"), atol=1e-5)


def test_a_failed_question_leaves_the_process_alive(script):
    running = script.classifier.run
    with pytest.raises(StoreError, match=r"fails on an input of shape \(1, 1, 16, 16\)"):
        running(np.zeros((1, 1, 16, 16), np.float32))
    assert running(np.zeros((1, 3, 16, 16), np.float32)).shape == (1, 2)


class Hostile(torch.nn.Module):
    """Does what the first pixel asks for."""

    def __init__(self, folder):
        super().__init__()
        self.victim = f"{folder}/victim"
        self.new = f"{folder}/new"

    def forward(self, x):
        asked = int(x[0, 0, 0, 0])
        if asked == 1:
            torch.save(x, self.victim)
        elif asked == 2:
            file = torch.from_file(self.victim, shared=True, size=4, dtype=torch.uint8)
            file.fill_(65)
            x = x + file[0]  # or it would be left out
        elif asked == 3:
            torch.save(x, self.new)
        elif asked == 4:
            x = x + torch.from_file(self.victim, shared=False, size=4, dtype=torch.uint8)[0]
        elif asked == 5:
            x = x + torch.ones(1 << 36).sum()
        elif asked == 6:
            print("noise", x.shape)  # noqa: T201
            warnings.warn("noise")  # noqa: B028
        while asked == 7 and bool(x.mean() < 8):
            x = x * 0.5
        return x.mean((2, 3))


def images(asked, channels=1):
    return np.full((1, channels, 4, 4), asked, np.float32)


def loaded(path):
    """What the worker makes of TorchScript, in this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return worker._torchscript(path.read_bytes(), {})


def program(path, kind="torchscript", **options):
    """The process of a file that nothing scanned."""
    with path.open("rb") as file:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return process.ModelProcess(file, path.name, kind, digest, **options)


needs_confinement = pytest.mark.skipif(bool(missing()), reason=f"needs {' and '.join(missing())}")


@needs_confinement
def test_a_program_that_the_scan_missed_reaches_nothing(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    scripted(Hostile(tmp_path), tmp_path / "hostile.pt")
    running = program(tmp_path / "hostile.pt")
    for asked in (1, 3):  # torch doesn't notice that it can't
        running(images(asked))
    for asked in (2, 4):
        with pytest.raises(StoreError, match=r"fails on an input .*\(unable to open file"):
            running(images(asked))
    assert victim.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hostile.pt", "victim"]
    with pytest.raises(StoreError, match=r"fails on an input .* memory"):
        running(images(5))
    assert running(images(6)).tolist() == [[6.0]]  # what it prints is no answer
    monkeypatch.setattr(process, "SECONDS", 1.0)
    with pytest.raises(StoreError, match=r"took more than 1 s; the model was stopped"):
        running(images(7))


def test_the_same_program_would_reach_the_files(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    scripted(Hostile(tmp_path), tmp_path / "hostile.pt")
    run, _ = loaded(tmp_path / "hostile.pt")
    run(images(2))
    assert victim.read_bytes() == b"AAAAious"
    run(images(3))
    assert (tmp_path / "new").exists()
    run(images(1))
    assert victim.read_bytes()[:2] == b"PK"


def worked(monkeypatch, content, lacking=(), **first):
    """What the worker says of a program, in this process, without being confined."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        question = {
            "kind": "torchscript", "seconds": 60, "trusted": False, "size": 9, "others": 0,
            "sha256": hashlib.sha256(content).hexdigest(), **first,
        }  # fmt: skip
        said = []

        class Asked(list):
            def say(self, facts, raw=b""):
                said.append(facts)

        asked = Asked([(question, os.dup(file.fileno()))])
        monkeypatch.setattr(worker, "Asked", lambda: asked)
        monkeypatch.setattr(worker, "confine", lambda *_, **__: lacking)
        monkeypatch.setattr(worker, "limited_time", lambda *_: contextlib.nullcontext())
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        with warnings.catch_warnings():
            worker.main()
    return said


def test_where_a_program_can_not_be_confined(tmp_path, monkeypatch, caplog):
    scripted(Means(), tmp_path / "model.pt")
    content = (tmp_path / "model.pt").read_bytes()
    lacking = ("Landlock", "seccomp")
    assert worked(monkeypatch, content, lacking) == [{"unconfined": "Landlock and seccomp"}]
    (said,) = worked(monkeypatch, content, lacking, trusted=True)
    assert said == {"unconfined": "Landlock and seccomp", "half": False}
    (said,) = worked(monkeypatch, content, sha256="0" * 64)
    assert said == {"error": "was changed while it was opened; try again"}
    # The end of who asks.
    answering(monkeypatch, "answers.say({'unconfined': 'Landlock'})")
    with pytest.raises(
        UsageError, match=r"model.pt is a program.*lacks Landlock.*`trust_programs`"
    ):
        open_model(tmp_path / "model.pt", FINDINGS[:1], preprocessing=SMALL)
    caplog.clear()
    program(tmp_path / "model.pt", trusted=True).close()
    assert "unconfined and could read your files: this system lacks Landlock" in caplog.text


@pytest.mark.parametrize("command", ["audit", "calibrate"])
def test_trust_is_an_option_of_commands(monkeypatch, capsys, command):
    asked = []

    def opened(model, **options):
        asked.append(options.get("trust_programs", False))
        raise StoreError("not now")

    monkeypatch.setattr(f"leadapron.jobs.{command}.open_model", opened)
    for more in ([], ["--trust-programs"]):
        words = ["leadapron", command, "model.pt", "--clean", "phantom:8", *more]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit):
            main()
        assert "not now" in capsys.readouterr().err
    assert asked == [False, True]


class Means(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 2, 3)

    def forward(self, x):
        return self.conv(x).mean((2, 3))


class Maps(Means):
    def forward(self, x):
        return self.conv(x), x.mean((2, 3)).long()


class Two(Means):
    """A map, features and logits, as networks with an auxiliary output give them."""

    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        return x, torch.cat([y, y[:, :1]], 1), y


class Named(Means):
    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        return {"features": torch.cat([y, y], 1), "logits": y, "chances": y.sigmoid()}


class Inside(Means):
    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        return [[torch.cat([y, y], 1)], [y]]


class Whole(Means):
    def forward(self, x):
        return x.mean((2, 3)).long()


class Last(Means):
    def forward(self, x):
        return self.conv(x.permute(0, 3, 1, 2)).mean((2, 3))


def in_process(model, tmp_path, outputs=None):
    """A program as the worker runs it, and what came of it as one line says it."""
    scripted(model.eval(), tmp_path / "model.pt")
    run, facts = loaded(tmp_path / "model.pt")
    answers = worker._Answers(run)

    def ask(images):
        said, raw = answers(images, outputs)
        if "error" in said:
            raise StoreError(f"model.pt {said['error']}")
        if "gives" in said:
            raise process.AnswerError(f"model.pt {said['gives']}")
        ask.taken = said.get("taken", "")
        return np.frombuffer(raw, np.float32).reshape(said["shape"])

    return ask, facts


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Maps(), r"gives output 1 float32 \(1, 2, 14, 14\) and output 2 int64 \(1, 1\); expected"),
        (Two(), r"output 2 float32 \(1, 3\) and output 3 float32 \(1, 2\); name its findings"),
        (Whole(), r"gives int64 \(1, 1\); expected floats \(1, findings\)"),
        (torch.nn.Conv2d(1, 2, 1), r"gives float32 \(1, 2, 16, 16\): it draws masks, as a segm"),
        (
            torch.nn.Sequential(torch.nn.Embedding(9, 2), torch.nn.Flatten()),
            r"^model\.pt takes whole numbers, as a text model does; expected a cla",
        ),
        (torch.nn.Conv2d(5, 2, 3), r"shape \(1, 1, 16, 16\) \(.*to have 5 channels.*; fails on.*3"),
    ],
)
def test_the_cause_is_named(tmp_path, model, words):
    run, _ = in_process(model, tmp_path)
    with pytest.raises(StoreError, match=words) as caught:
        probed(run, "model.pt", 16)
    assert "\n" not in str(caught.value)
    assert "interpreter" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "taken"),
    [
        (Two(), "output 3"),
        (Named(), "logits"),
        (Inside(), "output 2.output 1"),
    ],
)
def test_of_several_outputs_one_is_taken(tmp_path, model, taken):
    run, _ = in_process(model, tmp_path, outputs=2)
    images = torch.rand(3, 1, 16, 16)
    given = run(images.numpy())
    with torch.inference_mode():
        np.testing.assert_array_equal(given, Means.forward(model, images).numpy())
    assert run.taken.startswith("It gives ")
    assert run.taken.endswith(f"; {taken} was taken.")


def test_the_output_that_was_taken_stays():
    given = iter([{"a": np.zeros((1, 2), np.float32)}, {"b": np.zeros((1, 2), np.float32)}])
    answers = worker._Answers(lambda _: next(given))
    image = np.zeros((1, 1, 4, 4), np.float32)
    assert answers(image, 2)[0] == {"shape": (1, 2)}
    assert "gives b float32 (1, 2); expected" in answers(image, 2)[0]["gives"]


def test_no_output_has_a_column_for_each_finding(tmp_path):
    run, _ = in_process(Two(), tmp_path, outputs=14)
    with pytest.raises(process.AnswerError, match="none has 14 columns, one for each named"):
        run(np.zeros((1, 1, 16, 16), np.float32))


def test_channels_last(tmp_path):
    model = Last()
    run, _ = in_process(model, tmp_path)
    found = probed(run, "model.pt", 16)
    assert (found.channels, found.outputs, found.batch) == (1, 2, None)
    assert found.notes == ("It takes the channels last: (n, height, width, channels).",)
    images = torch.rand(3, 1, 16, 16)
    with torch.inference_mode():
        expected = Means.forward(model, images).numpy()
    np.testing.assert_allclose(found.run(images.numpy()), expected, atol=1e-6)


class Batches(Means):
    """As a trace with a fixed batch: its shapes are constants."""

    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def forward(self, x):
        return self.conv(x).mean((2, 3)).view(self.batch, 2)


@pytest.mark.parametrize("batch", [1, 8])
def test_fixed_batches(tmp_path, batch):
    model = Batches(batch)
    run, _ = in_process(model, tmp_path)
    found = probed(run, "model.pt", 16)
    assert found.batch == batch
    assert found.notes[0].startswith(f"It takes {batch} film")
    asked_of = BlackBoxClassifier(
        found.run, FINDINGS, SMALL, NORMALISATIONS["unit"], batch=found.batch
    )
    with torch.inference_mode():
        x = torch.from_numpy(PIXELS).float()[:, None] / 255
        expected = Means.forward(model, x).numpy()
    np.testing.assert_allclose(asked_of.logits(PIXELS), expected, atol=1e-6)


def test_half_precision(tmp_path):
    model = Means()
    whole, facts = in_process(model, tmp_path)
    expected = whole(np.ones((1, 1, 16, 16), np.float32))
    assert facts == {"half": False}
    half, facts = in_process(model.half(), tmp_path)
    assert facts == {"half": True}
    np.testing.assert_allclose(half(np.ones((1, 1, 16, 16), np.float32)), expected, atol=2e-3)


def answering(monkeypatch, *answers):
    """Workers that say something, whatever they are asked."""
    told = (
        "import os, sys; from leadapron.workers import Asked\n"
        "answers = Asked(); asked = iter(answers)\n"
        + "\n".join(f"next(asked); {answer}" for answer in answers)
        + "\nlist(asked)"
    )
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-c", told))


def test_a_process_sees_little_of_its_surroundings(tmp_path, monkeypatch):
    """What the worker would see, told by Python in its place."""
    monkeypatch.setenv("SECRET_TOKEN", "1234")
    seen = "{'metadata': {'seen': str(sorted(os.environ)), 'here': str(os.listdir())}}"
    answering(monkeypatch, f"answers.say({seen})")
    (tmp_path / "any.pt").touch()
    running = program(tmp_path / "any.pt")
    assert "HOME" in running.limits.metadata["seen"]
    assert "SECRET_TOKEN" not in running.limits.metadata["seen"]
    assert running.limits.metadata["here"] == "[]"
    running.close()
    assert running._worker.process.returncode is not None


CONFUSES = "confuses the process that runs it; the model was stopped"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("answers.say([1])", CONFUSES),
        ("answers.say({})", CONFUSES),
        ("answers.say({'shape': [1, 10**9]})", CONFUSES),
        ("answers.say({'shape': [1, 2]}, b'12'); sys.exit()", CONFUSES),
        ("sys.exit(3)", CONFUSES),
        ("os.kill(os.getpid(), 9)", "was killed by the system, probably because memory ran out"),
        ("os.kill(os.getpid(), 11)", r"crashed \(SIGSEGV\)"),
        ("os.kill(os.getpid(), 40)", r"crashed \(signal 40\)"),  # real-time, without a name
        ("os.kill(os.getpid(), 24)", "took more than 300 s"),
    ],
)
def test_answers_of_a_process_that_was_taken_over(tmp_path, monkeypatch, answer, words):
    answering(monkeypatch, "answers.say({})", f"{answer}; answers._answers.flush(); sys.exit()")
    (tmp_path / "any.pt").touch()
    running = program(tmp_path / "any.pt")
    with pytest.raises(StoreError, match=f"any.pt {words}"):
        running(np.zeros((1, 1, 2, 2), np.float32))
    assert running._worker.process.poll() is not None


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"batch": 0}, r"of sides \[0, None, None\]"),
        ({"size": -4}, r"of sides \[None, None, -4\]"),
        ({"channels": 4}, "takes 4 channels; expected 1 or 3"),
        ({"batch": "2"}, "confuses"),
        ({"size": True}, "confuses"),
        ({"last": 1}, "confuses"),
        ({"metadata": {"findings": ["A"]}}, "confuses"),
        ({"metadata": 3}, "confuses"),
    ],
)
def test_headers_that_lie(tmp_path, facts, words):
    with pytest.raises(StoreError, match=f"^any.onnx .*{words}"):
        process._limits("any.onnx", facts)
    assert process._limits("any.onnx", {}) == process.Limits(metadata={})


@pytest.mark.parametrize(
    ("batch", "size", "words"),
    [
        (2_000_000, 32, "takes batches of 2,000,000 films of 32 pixels a side"),
        (2_000_000, None, "takes batches of 2,000,000 films of 224 pixels a side"),
        (None, 1 << 20, "size 1048576 is out of range"),
        (6, 4096, "takes batches of 6 films of 4,096 pixels"),
    ],
)
def test_batches_that_ask_for_too_much(batch, size, words):
    wanted = opening._Wanted(ModelSettings(), None, False, torch.device("cpu"), "fp32")
    limits = process.Limits(batch, None, size)
    with pytest.raises(LeadapronError, match=words):
        opening._asked(None, "any.onnx", "ONNX", wanted, FINDINGS, limits)


@pytest.mark.parametrize("batch", [None, 2])
def test_onnx(tmp_path, batch):
    path = tmp_path / "model.onnx"
    onnx_file(path, {"findings": '["Effusion", "Mass"]'}, batch)
    model = open_model(path, trust_programs=True).classifier
    assert model.findings == FINDINGS
    assert (model.preprocessing.size, model.channels) == (16, 1)
    both = np.stack([HALF.mean((1, 2)), HALF.max((1, 2))], 1)
    np.testing.assert_allclose(model.logits(PIXELS), both, atol=1e-5)
    with pytest.raises(UsageError, match="takes images of 16 pixels, not 32"):
        open_model(path, preprocessing=Preprocessing(size=32), trust_programs=True)
    with pytest.raises(UsageError, match="takes 1 channels, not 3"):
        open_model(path, channels=3, trust_programs=True)


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({"extra": True}, "It gives features float32 (1, 4) and y float32 (1, 2); y was taken."),
        ({"last": True}, "It takes the channels last: (n, height, width, channels)."),
        ({"dtype": "FLOAT16"}, "It was exported in half precision, so its outputs are coarser."),
    ],
)
def test_onnx_of_other_forms(tmp_path, options, note):
    onnx_file(tmp_path / "model.onnx", {"findings": '["Effusion", "Mass"]'}, **options)
    found = open_model(tmp_path / "model.onnx", trust_programs=True)
    assert note in found.notes
    assert found.classifier.preprocessing.size == 16
    both = np.stack([HALF.mean((1, 2)), HALF.max((1, 2))], 1)
    np.testing.assert_allclose(found.classifier.logits(PIXELS), both, atol=1e-3)


def external(folder, location="model.onnx.data", **options):
    """An ONNX file in a folder whose weights are in another file."""
    folder.mkdir(exist_ok=True)
    onnx_file(
        folder / "model.onnx", save_as_external_data=True, location=location, size_threshold=0,
        **options,
    )  # fmt: skip
    return folder / "model.onnx"


def test_onnx_with_external_data(tmp_path):
    path = external(tmp_path / "export")
    data = path.with_name("model.onnx.data")
    assert data.stat().st_size >= 16
    found = open_model(path, FINDINGS, trust_programs=True)
    both = np.stack([HALF.mean((1, 2)), HALF.max((1, 2))], 1)
    np.testing.assert_allclose(found.classifier.logits(PIXELS), both, atol=1e-5)
    assert found.content == content_of(path)
    # Other weights are another model, though model.onnx is the same file.
    data.write_bytes(np.float32([[2, 0], [0, 2]]).tobytes())
    again = open_model(path, FINDINGS, trust_programs=True)
    np.testing.assert_allclose(again.classifier.logits(PIXELS), 2 * both, atol=1e-5)
    assert again.content == content_of(path) != found.content
    data.write_bytes(b"short")
    with pytest.raises(StoreError, match=r"^model.onnx can't be loaded \(") as caught:
        open_model(path, FINDINGS, trust_programs=True)
    assert "\n" not in str(caught.value)
    data.unlink()
    with pytest.raises(StoreError, match=r"'model.onnx.data', which can't be read \(No such file"):
        open_model(path, FINDINGS, trust_programs=True)


def mentioning(*names):
    """Bytes that mention other files as an ONNX file does; no program is needed to refuse them."""
    marks = (b"\x0a\x08location\x12" + bytes([len(n)]) + n.encode() for n in names)
    return b"\x08\x07" + bytes(40) + b"..".join(marks) + bytes(40)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (mentioning("/etc/passwd"), "keeps weights in '/etc/passwd', outside its folder"),
        (mentioning("../secret"), "keeps weights in '../secret', outside its folder"),
        (mentioning("a/../../secret"), "outside its folder"),
        (mentioning("..\\secret"), "outside its folder"),
        (mentioning("link"), "keeps weights in 'link', outside its folder"),
        (mentioning("below/link"), "keeps weights in 'below/link', outside its folder"),
        (mentioning("there", "pipe"), r"keeps weights in 'pipe', which can't be read \("),
        (mentioning("below"), r"keeps weights in 'below', which can't be read \("),
        (mentioning("m\x1b[2Jissing"), r"'m\\+x1b\[2Jissing', which can't be read \(No such"),
        (mentioning("sparse"), "has more than 4,294,967,296 bytes with its other files"),
        (mentioning(*(f"w{i}" for i in range(40))), "in 40 other files; expected 32 at most"),
        (mentioning("")[:-38], "names another file in a way that can't be read; it is broken"),
        (mentioning("a\0b"), "names another file in a way that can't be read"),
        (mentioning("abc")[:-42], "names another file in a way that can't be read"),
        (mentioning("x") + b"\x0a\x08location\x12\xff\xff\xff", "in a way that can't be read"),
    ],
)
def test_external_data_that_leads_elsewhere(tmp_path, monkeypatch, content, words):
    monkeypatch.setattr(opening.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(opening, "ModelProcess", None)  # nothing is run
    folder = tmp_path / "export"
    (folder / "below").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "link").symlink_to("../secret")
    (folder / "below" / "link").symlink_to(tmp_path / "secret")
    (folder / "there").write_bytes(b"1234")
    os.mkfifo(folder / "pipe")
    with (folder / "sparse").open("wb") as file:
        file.truncate(5 << 30)
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(StoreError, match=words) as caught:
        open_model(folder / "model.onnx", FINDINGS, trust_programs=True)
    assert "\n" not in str(caught.value)


def test_names_are_found_across_blocks(tmp_path, monkeypatch):
    content = bytes(10) + mentioning("weights/one.data", "two") + bytes(3) + mentioning("three")
    (tmp_path / "model.onnx").write_bytes(content)
    for block in range(1, 60):
        monkeypatch.setattr(external_module, "BLOCK", block)
        with open_file(tmp_path / "model.onnx") as file:
            digest, names = external_module.scanned(file)
        assert names == ("three", "two", "weights/one.data"), block
        assert digest == hashlib.sha256(content).hexdigest()


def test_broken_onnx(tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x07" + bytes(range(99)))
    with pytest.raises(StoreError, match=r"model.onnx can't be loaded \("):
        open_model(path, FINDINGS, trust_programs=True)


def test_a_normalisation_of_numbers():
    model = asked(sides, normalisation=Normalisation((0.5,), (0.25,)))
    np.testing.assert_allclose(model.logits(PIXELS), (sides(HALF[:, None]) - 0.5) / 0.25, atol=1e-5)


def test_a_program_that_is_no_model(tmp_path):
    out = io.BytesIO()
    torch.save({"a": 1}, out)
    (tmp_path / "model.onnx").write_bytes(out.getvalue())
    with pytest.raises(LeadapronError, match=r"model.onnx"):
        open_model(tmp_path / "model.onnx", FINDINGS, trust_programs=True)
