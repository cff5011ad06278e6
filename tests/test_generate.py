"""Commands that are made from functions, and what the command line loads."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner

from leadapron.cli import cli
from leadapron.cli.generate import Answer, _loaded, _stub, command, done
from leadapron.cli.settings import Settings
from leadapron.models.foreign import open_model
from leadapron.models.stated import AS_FOUND, ModelSettings, Opening
from leadapron.specs import parameters
from leadapron.types import Machine


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A dataclass.

    Args:
        side: its side.
        greys: its grey levels.
    """

    side: int = 3
    greys: tuple[int, ...] = (0, 255)


def job(
    films: str,
    out: Path,
    *,
    rate: float = 0.5,
    most: int | None = None,
    way: Literal["one", "other"] = "one",
    train: bool = False,
    statistics: bool = True,
    only: Sequence[str] = (),
    sweep: Sweep,
    opening: Opening = AS_FOUND,
    machine: Machine,
    **options: Any,
) -> dict[str, Any]:
    """Do the work.

    Slowly.

    Args:
        films: what is worked on.
        out: a file.
        rate: share that is
            worked on.
        most: films, at most.
        way: how.
        train: train first.
        statistics: the statistics.
        only: a part. Repeats.
        sweep: a sweep.
        opening: how a model is opened.
        machine: where.
        **options: the source's settings.

    Raises:
        UsageError: never.
    """
    return {name: value for name, value in locals().items() if name != "options"} | options


def called(*words: str, **settings: Any) -> dict[str, Any]:
    """The arguments of the call that a command line makes."""
    calls: list[dict[str, Any]] = []

    def answer(found: dict[str, Any], call: Mapping[str, Any]) -> Answer:
        assert {n: v for n, v in found.items() if n in call} == call
        calls.append(found)
        return done(["worked"], n=1)

    made = command("job", job, answer, options=("out",), **settings)
    result = CliRunner().invoke(made, ["films", "--out", "a.png", *words], standalone_mode=False)
    if result.exception:
        raise result.exception
    assert result.output == "worked\n"
    return calls[0]


def test_what_is_left_out_has_the_functions_defaults():
    machine = Machine(progress=None)
    call = called()
    assert call.pop("machine").on_bad == machine.on_bad
    assert call == {
        "films": "films", "out": Path("a.png"), "rate": 0.5, "most": None, "way": "one",
        "train": False, "statistics": True, "only": (), "sweep": Sweep(), "opening": Opening(),
    }  # fmt: skip


def test_each_kind_of_parameter_is_given_by_an_option():
    words = "--rate .1 --most 3 --way other --train --no-statistics --only a --only b"
    more = "--sweep.side 5 --sweep.greys 1,2 --trust-programs"
    more += " --model.findings A,B --model.weights-key ema"
    more += " --model.size 64 --model.channels 3 --model.crop .9 --model.aspect pad"
    more += " --model.operating-points .1,.5 --card card.yaml"
    last = "--device cpu --precision fp32 --cache none --on-bad skip --source.count 9"
    call = called(*f"{words} {more} {last}".split())
    machine = call.pop("machine")
    assert (machine.device, machine.precision, machine.cache) == ("cpu", "fp32", "none")
    assert machine.on_bad == "skip"
    stated = ModelSettings(
        findings=("A", "B"), weights_key="ema", size=64, channels=3, crop=0.9,
        operating_points=(0.1, 0.5), aspect="pad",
    )  # fmt: skip
    opening = Opening(model=stated, card=Path("card.yaml"), trust_programs=True)
    assert call == {
        "films": "films", "out": Path("a.png"), "rate": 0.1, "most": 3, "way": "other",
        "train": True, "statistics": False, "only": ("a", "b"), "opening": opening,
        "sweep": Sweep(side=5, greys=(1, 2)), "count": 9,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rate", "x"], "'x' is not a valid float"),
        (["--way", "third"], "'third' is not one of 'one', 'other'"),
        (["--most", "2000"], "2000 is not in the range 1<=x<=1024"),
        (["--device", "tpu"], "'tpu' is not one of"),
        (["--sweep.greys", "1,x"], "expected N,N,..."),
        (["--model.aspect", "odd"], "'odd' is not one of"),
        (["--model.channels", "2"], "'2' is not one of"),
        (["--model.operating-points", "a"], "expected X,X,..."),
    ],
)
def test_values_are_checked_before_the_function_is_called(words, message):
    with pytest.raises(click.UsageError) as raised:
        called(*words, how={"most": {"type": click.IntRange(1, 1024)}})
    assert message in raised.value.format_message()


def test_help_is_the_docstring():
    made = command("job", job, options=("out",), more="Exit code 1: found.", machine=("cache",))
    said = " ".join(CliRunner().invoke(made, ["--help"]).output.split())
    for words in (
        "[OPTIONS] FILMS Do the work. Slowly. Exit code 1: found. FILMS: What is worked on.",
        "--out PATH A file. [required]",
        "--rate FLOAT Share that is worked on. [default: 0.5]",
        "--way [one|other] How. [default: one]",
        "--no-statistics Leave out the statistics.",
        "--sweep.greys N,N,... Its grey levels.",
        "--cache FOLDER|none",
    ):
        assert words in said
    assert "--device" not in said
    assert "UsageError" not in said


def test_an_answer_is_json_or_lines_and_has_an_exit_code():
    def report(*, bad: bool = False) -> Answer:
        """Report.

        Args:
            bad: whether it is.
        """
        return Answer(facts={"bad": bad}, lines=["bad" if bad else "good"], code=int(bad))

    report.__annotations__ = {"bad": bool, "return": Answer}
    made = command("report", report)
    for words, output, code in (
        ([], "good\n", 0), (["--bad"], "bad\n", 1), (["--json"], '{\n  "bad": false\n}\n', 0),
    ):  # fmt: skip
        result = CliRunner().invoke(made, words, standalone_mode=False)
        assert (result.output, result.return_value) == (output, code)


def test_settings_of_a_study_become_its_tree():
    def show(*, settings: Mapping[str, Any]) -> Answer:
        """Show.

        Args:
            settings: of the study.
        """
        return done([json.dumps(settings)])

    show.__annotations__ = {"settings": Mapping[str, Any], "return": Answer}
    wanted = Settings(
        sections=("source", "trigger", "poisoning.stage"), shorthands=("source", "trigger", "size")
    )
    made = command("show", show, settings=wanted)
    words = "--source phantom:32 --source npz:a --trigger warp --trigger.side 1,3 --size 64"
    stage = "--poisoning.stage image --source.count 7"
    result = CliRunner().invoke(made, f"{words} {stage}".split(), standalone_mode=False)
    assert json.loads(result.output) == {
        "source": {"name": "phantom:32 + npz:a", "count": 7},
        "trigger": {"name": "warp", "side": [1, 3]},
        "size": 64,
        "poisoning": {"stage": "image"},
    }
    assert {p.name for p in made.params if p.name and p.name.startswith("poisoning")} == {
        "poisoning__stage"
    }


def every(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, click.Command]]:
    """All commands with their names."""
    found = []
    with click.Context(group) as context:
        for name in group.list_commands(context):
            made = group.get_command(context, name)
            assert made is not None
            below = every(made, (*path, name)) if isinstance(made, click.Group) else []
            found += below or [(" ".join((*path, name)), made)]
    return found


def test_each_option_of_each_command_is_explained_and_named_once():
    commands = every(cli)
    assert len(commands) > 20
    for name, made in commands:
        assert made.help, name
        named = [word for p in made.params if isinstance(p, click.Option) for word in p.opts]
        assert len(named) == len(set(named)), name
        for param in made.params:
            if isinstance(param, click.Option):
                assert param.help, (name, param.opts)
                assert not param.help.lower().startswith("as `"), (name, param.opts)


def test_what_is_said_of_a_model_is_what_opening_one_takes():
    taken = inspect.signature(open_model).parameters
    assert {*parameters(ModelSettings), "card", "trust_programs"} <= set(taken)
    assert set(parameters(Opening)) == {"model", "card", "trust_programs"}


@pytest.mark.parametrize(
    "name",
    ["scan:scan", "calibrate:calibrate", "explain:explain_sheet", "audit:audit", "clean:clean"],
)
def test_a_signature_that_is_read_is_the_one_that_is_called(name):
    read = _stub(f"leadapron.jobs.{name}")
    assert read is not None
    real = _loaded(f"leadapron.jobs.{name}")
    assert parameters(read, positional=True) == parameters(real, positional=True)
    assert inspect.getdoc(read) == inspect.getdoc(real)
