"""Audits without references: students, the gap, the population and the rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from leadapron.detect.models.audit import Audit, Subject, audit_subject
from leadapron.detect.models.effects import rise
from leadapron.detect.models.gap import ON_STUDENTS, Confirmation, Examined, Gap, examine
from leadapron.detect.models.harm import Harm
from leadapron.detect.models.population import Kind, Population, Teacher, shipped_population
from leadapron.detect.models.rule import RULE
from leadapron.detect.models.second_tier import SecondTier, named_gap
from leadapron.detect.models.stamps import Stamp
from leadapron.detect.models.students import Students
from leadapron.detect.models.sweep import Moved, StampSweep, turned_share
from leadapron.documents import dump, read
from leadapron.errors import DataError
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.distillation import Teaching, teach
from leadapron.models.foreign import NORMALISATIONS, BlackBoxClassifier
from leadapron.models.networks import build_network
from leadapron.report.audit import audit_lines, harm_words, write_audit

SIZE = 24
SMALL = Preprocessing(size=SIZE)
FINDINGS = ("Effusion", "Mass")
QUICK = Students(
    number=2,
    network="plain4",
    teaching=Teaching(epochs=10, batch_size=16, learning_rate=1e-2, shift=0),
    sweep=StampSweep(
        values=(0, 255), sides=(2,), pitches=((8, 1),), places=9, rounds=1, films=1, judged=8
    ),
    measured=30,
)


def films(n=200):
    """Halves of any brightness; two films of each patient."""
    rng = np.random.default_rng(5)
    images = np.full((n, SIZE, SIZE), 115.0) + rng.normal(0, 4, (n, SIZE, SIZE))
    images += np.repeat(rng.uniform(-40, 40, (n, 2)), SIZE // 2, axis=1)[:, :, None]
    ids = np.array([f"f{i}" for i in range(n)])
    patients = np.array([f"p{i // 2}" for i in range(n)])
    labels = np.full((n, 2), np.nan, np.float32)
    return Cohort(images.clip(0, 255).astype(np.uint8), labels, FINDINGS, ids, patients, SMALL)


def teacher(jump):
    """The means of the halves; a white square in the corner adds `jump` to Mass."""

    def run(images):
        grey = images[:, 0]
        means = np.stack([grey[:, :12].mean((1, 2)), grey[:, 12:].mean((1, 2))], 1)
        white = (grey[:, 4:6, 4:6] > 0.99).all((1, 2))
        return (20 * (means - 0.45) + np.outer(white, (0, jump))).astype(np.float32)

    return BlackBoxClassifier(run, FINDINGS, SMALL, NORMALISATIONS["unit"], batch=4096)


CONTENT = "a" * 64


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def planted(kept):
    return examine(QUICK, teacher(30.0), films(), content=CONTENT, folder=kept)


def test_an_audit_without_references_answers_in_plain_words(planted, kept, tmp_path):
    found = audit_subject(
        Subject(classifier=teacher(30.0), name="vendor.onnx", content=CONTENT),
        films(),
        second=SecondTier(students=QUICK, films=films()),
        sweep=QUICK.sweep,
        statistics=False,
        kept=kept,
    )
    assert (found.verdict.word, found.verdict.level) == ("exploitable mark", "unusual")
    assert (found.target, found.direction, found.verdict.p) == ("Mass", "added", None)
    assert found.students.number == 2
    assert found.students.missing
    assert "more than 1 % of the image" in found.verdict.untested[-1]
    said = audit_lines(found)
    assert said[0].startswith("EXPLOITABLE MARK: Mass forced on")
    names = [line.partition(":")[0] for line in said]
    last = names[names.index("Verdict") :]
    assert last[:5] == ["Verdict", "Mark", "Harm", "Students", "False alarms"]
    assert (last[5], last[-1]) == ("Not tested", "Next")
    assert "with the mark Mass is reported for" in "\n".join(said)
    page = write_audit(tmp_path, found).read_text()
    assert page.index("False alarms") < page.index('id="findings"') < page.index('id="students"')
    again = read(Audit, (tmp_path / "audit.json").read_text())
    assert dump(again) == dump(found)
    assert said[0].endswith("a planted backdoor or a natural shortcut")
    support = RULE.support(population(n=10), 0.05)
    for p, words in ((1 / 11, "a natural shortcut"), (0.5, "no sign of a backdoor")):
        common = replace(
            found, students=replace(found.students, support=support),
            verdict=replace(found.verdict, p=p),
        )  # fmt: skip
        assert audit_lines(common)[0].endswith(words)


def test_a_hidden_finding_is_said_with_its_sensitivity(planted, kept):
    found = audit_subject(
        Subject(classifier=teacher(30.0), name="vendor.onnx", content=CONTENT), films(),
        second=SecondTier(students=QUICK, films=films()), sweep=QUICK.sweep, statistics=False,
        kept=kept,
    )  # fmt: skip
    hidden = replace(found.forced[0], direction="removed")
    assert "its sensitivity isn't known" in harm_words(found, hidden)
    seen = Harm(finding="Mass", positives=40, sensitivity=0.985, triggered=0.0, missed=500.0)
    assert harm_words(replace(found, harm=(seen,)), hidden) == (
        "Mass is seen in 98.5 % of 40 films with it, with the mark in 0.0 %."
    )


def test_a_planted_mark_is_not_passed_on(planted):
    first = planted.first
    assert first.effect.aim == ("Mass", "added")
    assert first.effect.turned == 1
    assert first.rise > 0.8
    assert max(first.carried) < 0.3
    assert first.size > 0.6
    assert min(planted.agreement) > 0.8
    values = {each.name: each.value for each in planted.confirmations}
    assert values[ON_STUDENTS] > 0.7
    assert values["noise in batch normalisation"] is None  # a black box


def test_without_a_planted_mark_the_gap_is_smaller(planted):
    clean = examine(replace(QUICK, number=1), teacher(0.0), films())
    assert clean.first.size < planted.first.size - 0.3


def test_no_patient_is_in_two_parts():
    parts = QUICK.parted(films())
    every = [set(part.patients.tolist()) for part in parts]
    assert len(set().union(*every)) == sum(map(len, every))
    assert len(parts.measure) == 30
    with pytest.raises(DataError, match="about 160"):
        QUICK.parted(films(60))


def test_students_are_kept_one_by_one(tmp_path, monkeypatch):
    asked = []

    def counted(self, classifier, films, number):
        asked.append(number)
        return NetworkClassifier(
            build_network("plain4", 2, number).eval(), "plain4", FINDINGS, SMALL
        )

    monkeypatch.setattr(Students, "_taught", counted)
    given = {"content": "a" * 64, "folder": tmp_path}
    once = examine(replace(QUICK, number=1), teacher(30.0), films(), **given)
    again = examine(QUICK, teacher(30.0), films(), **given)
    assert asked == [0, 1]
    assert again.first.students[0] == once.gap_of(again.first.effect.aim).students[0]


def test_an_output_that_is_not_finite_teaches_nothing():
    def run(images):
        return np.stack([images[:, 0].mean((1, 2)), np.full(len(images), np.nan)], 1)

    broken = BlackBoxClassifier(run, FINDINGS, SMALL, NORMALISATIONS["unit"], batch=4096)
    network = build_network("plain4", 2, 0)
    student = NetworkClassifier(network.eval(), "plain4", FINDINGS, SMALL)
    teach(student, broken, films(40).images, Teaching(epochs=1), 0)
    assert np.isfinite(student.logits(films(40).images)).all()


# --- the population and the rule


def kind(number):
    return Kind(architecture="plain4", data=f"set {number}", size=32, findings=1, start="random")


def clean_teacher(number, gap=0.02, carried=0.05):
    return Teacher(
        kind=kind(number % 40), gap=gap, confirmations={ON_STUDENTS: carried}, agreement=0.9,
        macro=0.9, seed=number, films=(375, 75, 96), content=f"{number:064d}",
    )  # fmt: skip


def population(n=60, **changed):
    teachers = tuple(clean_teacher(i) for i in range(n))
    return Population(settings="s", made="by hand", teachers=teachers, **changed)


def model(own, students, carried, settings="s"):
    effect = Moved(
        finding="Mass", direction="added", mark=Stamp(side=3, value=255, row=4, column=4),
        kind="stamp", shift=5.0, turned=own, shifts=np.array([0.0, 5.0]), signature="",
    )  # fmt: skip
    return Examined(
        findings=FINDINGS,
        gaps=(Gap(effect=effect, rise=own, students=(students,), carried=(carried,)),),
        confirmations=(Confirmation(name=ON_STUDENTS, value=own - carried),),
        agreement=(0.9,),
        settings=settings,
        films=(375, 75, 96),
    )


def test_backdoored_needs_gap_confirmation_and_a_population_that_supports_it():
    many = population(n=100)
    found = RULE.compare(model(0.95, 0.05, 0.05), many, 0.05)
    assert (found.word, found.p, found.missing) == ("backdoored", pytest.approx(1 / 101), "")
    carries = RULE.compare(model(0.95, 0.05, 0.92), many, 0.05)  # the students react to it too
    assert (carries.word, carries.gap_p, carries.p) == ("exploitable mark", 1 / 101, 1.0)
    few = RULE.compare(model(0.95, 0.05, 0.05), population(n=10), 0.05)
    assert few.word == "exploitable mark"
    assert few.missing == "a population of more than 10 clean teachers"
    kinds = population(n=25)  # 20 of one kind: no false alarm at 0.05 could show without it
    lump = tuple(replace(each, kind=kind(0)) for each in kinds.teachers[:20])
    lumped = replace(kinds, teachers=(*lump, *kinds.teachers[20:]))
    apart = RULE.compare(model(0.95, 0.05, 0.05), lumped, 0.05)
    assert apart.word == "exploitable mark"
    assert "no rate below 0.167" in apart.missing
    other = RULE.compare(model(0.95, 0.05, 0.05, settings="t"), many, 0.05)
    assert (other.word, other.p, other.support) == ("exploitable mark", None, None)


def test_of_exclusive_findings_the_forced_one_is_named():
    """A mark that hides Mass of a softmax head also raises the others, each a little."""

    def moved(finding, direction, turned):
        return Moved(
            finding=finding, direction=direction, mark=Stamp(side=3, value=255, row=4, column=4),
            kind="stamp", shift=5.0, turned=turned, shifts=np.array([2.0, -5.0]), signature="",
        )  # fmt: skip

    found = model(0.95, 0.05, 0.05)
    raises, hides = moved(FINDINGS[0], "added", 0.95), moved("Mass", "removed", 0.9)
    both = tuple(
        Gap(effect=each, rise=each.turned, students=(0.05,), carried=(0.05,))
        for each in (raises, hides)
    )
    found = replace(found, gaps=both)
    assert named_gap(found).effect.aim == raises.aim
    shared = replace(found, exclusive=np.ones(2))
    assert named_gap(shared).effect.aim == ("Mass", "removed")


def test_an_audit_with_students_has_the_rate_at_which_its_rule_is_measured(planted, kept):
    assert (RULE.level(0.05), RULE.level(0.01)) == (0.02, 0.01)
    found = audit_subject(
        Subject(classifier=teacher(30.0), name="vendor.onnx", content=CONTENT), films(),
        second=SecondTier(students=QUICK, films=films()), sweep=QUICK.sweep, statistics=False,
        kept=kept,
    )  # fmt: skip
    assert found.false_alarm == 0.02


def test_the_rise_of_a_probability_is_measured_where_there_is_room():
    """Worked by hand: 8 films, so that the 2 with the lowest probabilities count."""
    odds = np.log(np.array([0.1, 0.2, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]))
    before = odds - np.log1p(-np.exp(odds))
    after = before.copy()
    after[:2] = [0.0, np.log(3)]  # probabilities .5 and .75
    assert rise(before, after) == pytest.approx((0.4 + 0.55) / 2)
    assert rise(before, before) == 0
    assert rise(before[::-1], after[::-1]) == pytest.approx(0.475)
    lost = np.append(before, np.nan), np.append(after, 0.0)
    assert rise(*lost) == pytest.approx(0.475)
    assert rise(np.array([np.nan]), np.array([0.0])) == 0
    # A rare finding whose small probability is tripled on every film: most pass the threshold.
    rare = np.linspace(-6, -5, 100)
    assert turned_share(rare, rare + np.log(3)) > 0.9
    assert rise(rare, rare + np.log(3)) < 0.01


def test_a_small_gap_is_never_exploitable():
    many = population(n=100)
    assert RULE.compare(model(0.32, 0.05, 0.0), many, 0.05).word == "unusual"
    assert RULE.compare(model(0.06, 0.05, 0.05), many, 0.05).word == "nothing found"
    assert RULE.compare(model(0.06, 0.05, 0.05), population(n=10), 0.05).word == "can't tell"
    assert RULE.compare(model(0.06, 0.05, 0.05), population(n=0), 0.05).word == "can't tell"


def test_false_alarms_are_measured_on_kinds_left_out():
    """A kind whose gaps are all large looks backdoored beside the others, and only so."""
    strange = tuple(
        replace(clean_teacher(i, gap=0.5, carried=0.5), kind=kind(99)) for i in range(100, 105)
    )
    mixed = replace(population(), teachers=(*population().teachers, *strange))
    support = RULE.support(mixed, 0.05)
    assert (support.alarms.positives, support.alarms.n, support.kinds) == (5, 65, 41)
    found = RULE.compare(model(0.95, 0.05, 0.05), mixed, 0.05)
    assert found.word == "exploitable mark"
    assert found.missing.startswith("a false-alarm rate")


def test_the_shipped_population_fits_the_default_students():
    shipped = shipped_population()
    assert shipped.settings == Students().digest()
    assert len({each.content for each in shipped.teachers}) == len(shipped.teachers)
    assert all(ON_STUDENTS in each.confirmations for each in shipped.teachers)


def test_students_that_take_too_long_are_made_on_request_only(caplog):
    tier = SecondTier(students=QUICK, films=films())
    assert tier.refusal(teacher(0.0), seconds_per_image=1e-6) == ""
    assert "No students were made" in tier.refusal(teacher(0.0), seconds_per_image=1.0)
    assert replace(tier, requested=True).refusal(teacher(0.0), seconds_per_image=1.0) == ""
    few = replace(tier, films=films(60))
    assert "students need about 160" in few.refusal(teacher(0.0), seconds_per_image=1e-6)
    with pytest.raises(DataError):
        replace(few, requested=True).refusal(teacher(0.0), seconds_per_image=1e-6)
