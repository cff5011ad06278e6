"""Audits of models in memory, which have no name and no file."""

from __future__ import annotations

from leadapron.detect.models import Subject, audit_subject


def audit_model(classifier, films, references=(), *, name="", origin="", **given):
    own = Subject(classifier=classifier, name=name, origin=origin)
    return audit_subject(own, films, [Subject(classifier=each) for each in references], **given)
