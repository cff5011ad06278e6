"""The exception tree and its messages."""

import inspect
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest

from leadapron import errors
from loaded import load_package


@pytest.mark.parametrize(
    ("kind", "parent", "code"),
    [
        (errors.LeadapronError, Exception, 2),
        (errors.UsageError, errors.LeadapronError, 4),
        (errors.UnknownNameError, errors.UsageError, 4),
        (errors.DataError, errors.LeadapronError, 2),
        (errors.FilmError, errors.DataError, 2),
        (errors.VanishedTriggerError, errors.DataError, 2),
        (errors.StoreError, errors.LeadapronError, 2),
    ],
)
def test_tree_and_exit_codes(kind, parent, code):
    assert issubclass(kind, parent)
    assert kind.exit_code == code


def test_every_error_is_exported_and_in_the_tree():
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.LeadapronError)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Efusion", "did you mean Effusion?"),
        ("effusion", "did you mean Effusion?"),
        ("MASS", "did you mean Mass?"),
        ("xyz", "known: Edema, Effusion, Mass"),
    ],
)
def test_unknown_names_offer_the_nearest_or_all(name, expected):
    message = str(errors.UnknownNameError("finding", name, ("Mass", "Effusion", "Edema")))
    assert message.startswith(f"unknown finding {name!r}; ")
    assert message.endswith(expected)
    assert "\n" not in message


def test_several_near_names_are_all_offered():
    message = str(errors.UnknownNameError("size", "size1", ["size2", "size3", "other"]))
    assert "size2" in message
    assert "size3" in message
    assert "other" not in message


MADE_OF = {"str": "text", "Iterable[str]": ("a", "b")}


def kinds():
    """Every exception of the package's that leaves its module."""
    load_package()
    found, left = [], [Exception]
    while left:
        more = [kind for kind in left.pop().__subclasses__() if kind not in found]
        left += more
        found += more
    return [k for k in found if k.__module__[:9] == "leadapron" and k.__name__[:1] != "_"]


def test_every_error_comes_out_of_a_worker_as_it_was():
    found = kinds()
    assert errors.UnknownNameError in found
    for kind in found:
        taken = list(inspect.signature(kind.__init__).parameters.values())[1:]
        error = kind(*(MADE_OF.get(p.annotation, "text") for p in taken if p.kind != p.VAR_KEYWORD))
        error.add_note("a note")
        back = pickle.loads(pickle.dumps(error))
        assert (type(back), str(back), back.args) == (kind, str(error), error.args)
        assert back.__notes__ == ["a note"]


def raise_unknown():
    raise errors.UnknownNameError("trigger", "pacth", ["patch", "warp"])


def test_a_worker_that_fails_says_why():
    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
        pytest.raises(errors.UnknownNameError, match="did you mean patch"),
    ):
        pool.submit(raise_unknown).result()
