"""The exception tree and its messages."""

import pytest

from leadapron import errors


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
