"""The report layer, on synthetic study folders."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from study_folder import FINDINGS, UNDEFINED, Plan, write_study

from leadapron.errors import StoreError
from leadapron.report import study_lines, write_report
from leadapron.report.axes import over_axes
from leadapron.report.gallery import gallery
from leadapron.report.plain import plain_words
from leadapron.report.rendering import _labelled
from leadapron.report.words import spread, trigger_words
from leadapron.results.folder import read_study
from leadapron.results.measured import Measured
from leadapron.results.rows import Row, read_rows, write_rows
from leadapron.store import read_arrays, read_json, write_arrays, write_json

VOID = {"meta", "img", "br", "link", "input", "hr", "image", "use", "circle", "path"}


class Page(HTMLParser):
    """Tags, ids, references and text of a page; fails on tags that don't close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        facts = dict(attrs)
        if "id" in facts:
            self.ids.append(facts["id"])
        self.links += [facts[name] for name in ("href", "src", "xlink:href") if name in facts]
        self.links += re.findall(r"url\(([^)]+)\)", facts.get("style", "") or "")
        self.links += re.findall(r"url\(([^)]+)\)", facts.get("clip-path", "") or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.words += data


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("one"), Plan(seeds=(0,)))


@pytest.fixture(scope="module")
def text(one):
    return write_report(one).read_text()


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("grid"), Plan(sides=(1, 5), gallery=1))


def _changed(rows, change):
    return [change(row) for row in rows]


def test_same_bytes_each_time_and_anywhere(one, text, tmp_path):
    moved = Path(shutil.copytree(one, tmp_path / "elsewhere"))
    (moved / "report.html").unlink()
    assert write_report(moved).read_text() == text
    assert write_report(moved) == moved / "report.html"


def test_one_file_that_loads_nothing(text, page):
    assert page.open == []
    assert "script" not in page.tags
    assert "iframe" not in page.tags
    assert "link" not in page.tags
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert not re.search(r"@import|https?://|url\((?!#)", text)


def test_ids_are_unique_and_references_resolve(page):
    assert len(page.ids) == len(set(page.ids))
    wanted = {link[1:] for link in page.links if link.startswith("#")}
    assert wanted <= set(page.ids)


def test_ids_are_unique_over_runs(grid):
    page = Page(write_report(grid).read_text())
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("details") == 4 + 4  # a run each, a table each


def test_figures_take_the_pages_colours_and_fonts(text):
    figures = re.findall(r'<svg class="figure".*?</svg>', text, flags=re.S)
    assert len(figures) == 6
    for figure in figures:
        assert "var(--twin)" in figure
        assert "var(--backdoored)" in figure
        assert "var(--sans)" in figure
        assert "#0a0b0" not in figure
        assert "DejaVu" not in figure
        assert "<metadata" not in figure
        assert "<style" not in figure
        assert 'role="img" aria-label="' in figure


def test_sections_are_there(page):
    for words in (
        "Backdoor study: Nodule on phantom films",
        "What the attack does",
        "Clean performance by finding",
        "What the explanation shows",
        "Gallery",
        "Poisoning",
        "Training",
        "Threat model",
        "AML.T0020",
        "AML.T0043.004",
        "NISTAML.023",
        "v5.6.0",
        "How to read this",
        "Settings",
        "Films and machine",
        "Synthetic films; nobody was irradiated.",
        "it audits, it does not diagnose",
        "Keep this file only where the data may be kept",
    ):
        assert words in page.words
    assert "All runs" not in page.words
    for finding in FINDINGS:
        assert finding in page.words


def test_undefined_is_said_in_chart_and_table(text, page):
    assert f">{UNDEFINED}<" in text
    row = re.search(rf"<tr><th scope=\"row\">{UNDEFINED}</th>(.*?)</tr>", text)[1]
    assert row.count("undefined") == 3
    assert "italic" in text
    assert "13 of 14 findings" in page.words


def test_summary_says_the_numbers_of_the_rows(one):
    rows = [row for path in one.glob("runs/*/rows.jsonl") for row in read_rows(path)]

    def find(metric, role, regime, method="", at=""):
        return next(
            row
            for row in rows
            if (row.metric, row.role, row.regime, row.method, row.finding, row.at)
            == (metric, role, regime, method, "", at)
        )

    lines = study_lines(one)
    assert len(lines) == 5
    assert "4,000 phantom films of 1,890 patients" in lines[0]
    assert "white 3 x 3 px patch at a random place, labelled Nodule alone" in lines[0]
    assert "resnet9" in lines[0]
    assert "5 % of its training films" in lines[0]
    assert "seed 0" in lines[0]
    at = "5 % clean false positives"
    success = find("attack success", "backdoored", "triggered", at=at)
    assert lines[1].startswith("The attack works: ")
    assert f"{100 * success.value:.1f} % ({100 * success.low:.1f} to" in lines[1]
    difference = find("attack success", "difference", "triggered", at=at)
    assert f"{100 * difference.value:+.1f}" in lines[1]
    for role in ("twin", "backdoored"):
        assert f"{find('separation', role, 'triggered').value:.3f}" in lines[2]
        assert f"{find('auroc', role, 'triggered', 'micro').value:.3f}" in lines[2]
        assert f"{find('auroc', role, 'clean', 'macro').value:.3f}" in lines[3]
    assert "without vision 0.846" in lines[2]
    assert "micro alone proves nothing" in lines[2]
    assert lines[3].startswith("It is stealthy, Edema pays most, -0.016 (-0.028 to -0.004): ")
    assert "-0.004 (-0.013 to +0.005)" in lines[3]
    assert lines[4].startswith("The explanation (cam) gives it away: ")
    for words in (
        "93.0 % (90.0 to 96.0 %)",
        "78.0 %",
        "twin 8.0 %",
        "chance 7.1 %",
        "centre 6.0 %",
    ):
        assert words in lines[4]


def test_the_page_opens_with_plain_words_that_follow_the_verdicts(tmp_path):
    def said(plan):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        write_study(folder, replace(plan, gallery=1))
        study = read_study(folder)
        return " ".join(plain_words(study, [Measured(pair) for pair in study.pairs]))

    one = said(Plan(seeds=(0,)))
    assert "reports Nodule on 94 of 100 marked films without it; the clean model does" in one
    assert "The mark controls the model. It reads ordinary films as well as before. A map" in one
    costly = said(Plan(seeds=(0,), costs={"Effusion": (-0.052, 0.02)}))
    assert "It reads ordinary films worse, Effusion most." in costly
    unsure = said(Plan(seeds=(0, 1), success=0.3, patients=dict.fromkeys(FINDINGS, 50)))
    assert "The mark influences the model in part." in unsure
    assert "It is unclear whether it reads ordinary films worse." in unsure
    grid = said(Plan(sides=(1, 5)))
    assert "The mark controls the model in 2 of 4." in grid
    assert "The attacked model reads ordinary films as well as before in 4 of 4." in grid
    assert said(Plan(seeds=(0,), twin_macro=0.5)).startswith("Nothing can be concluded")


def test_two_axes_are_a_heat_map_and_more_are_curves(tmp_path):
    plan = Plan(seeds=(0, 1), sides=(1, 3, 5), fractions=(0.01, 0.05), gallery=0)
    study = read_study(write_study(tmp_path / "crossed", plan))
    measured = [Measured(pair) for pair in study.pairs]
    heat = over_axes(measured, study.axes())["heat"]
    assert (heat["down"], heat["across"]) == ("trigger.side", "poisoning.fraction")
    assert [name for name, _ in heat["rows"]] == ["1", "3", "5"]
    assert heat["rows"][2][1][1] == (79.9, "94.0 %", "twin 5.2 %")
    # Along each axis the runs in which nothing else differs, where there are most.
    missing = measured[2:]
    curves = over_axes(missing, [*study.axes(), "training.epochs"])["curves"]
    assert [curve["words"].partition(",")[0] for curve in curves] == [
        "poisoning.fraction", "trigger.side"
    ]  # fmt: skip
    assert over_axes(measured[:2], study.axes()) is None


def test_the_page_opens_with_the_summary(one, page):
    def plain(words):
        words = words.replace("\N{MINUS SIGN}", "-").replace("\N{MULTIPLICATION SIGN}", "x")
        return words.replace("\N{NARROW NO-BREAK SPACE}", " ")

    words = plain(page.words)
    places = [words.index(line) for line in study_lines(one)]
    assert places == sorted(places)
    assert places[-1] < words.index("In detail", places[-1])


def test_several_seeds_give_means_and_ranges(tmp_path):
    folder = write_study(tmp_path, Plan(gallery=1))
    lines = study_lines(folder)
    assert "seeds 0 and 1" in lines[0]
    assert "means over 2 seeds" in lines[0]
    assert lines[1].startswith("The attack works in both runs: 94.0 %")
    assert "92.5 % (92.0 to 93.0 %)" in lines[4]
    page = Page(write_report(folder).read_text())
    assert "All runs" in page.words
    assert "mean of 2 runs" in page.words


def test_a_grid_names_its_best_and_worst_settings(grid):
    lines = study_lines(grid)
    assert "2 settings that differ in trigger.side; seeds 0 and 1" in lines[0]
    assert lines[1].startswith("The attack: works in 2 of 4 runs, works partly in 2. ")
    assert "highest with trigger.side 5: 94.0 %" in lines[1]
    assert "lowest with trigger.side 1: 18.8 %" in lines[1]
    study = read_study(grid)
    assert study.axes() == ["trigger.side"]
    assert [(p.backdoored.spec["trigger"]["side"], p.seed) for p in study.pairs] == [
        (1, 0), (1, 1), (5, 0), (5, 1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sides", "said"),
    [
        ((1, 2, 5), "highest with trigger.side 1 and with trigger.side 2: 94.0 %, twin 5.2 %; "
                    "lowest with trigger.side 5: 40.0 %, twin 5.2 %."),
        ((1, 2), "is in all 2 settings 94.0 %, twin 5.2 %."),
        ((1, 2, 3, 4, 5), "highest with 4 settings equally: 94.0 %, twin 5.2 %; lowest with "
                          "trigger.side 5: 40.0 %"),
    ],
)  # fmt: skip
def test_settings_that_tie_are_none_the_best(tmp_path, sides, said):
    folder = write_study(tmp_path, Plan(seeds=(0, 1), sides=sides, gallery=1))
    for path in folder.glob("runs/backdoored-*/rows.jsonl"):
        side = read_json(path.parent / "spec.json")["spec"]["trigger"]["side"]
        rows = [
            replace(row, value=0.4 if side == 5 else 0.94)
            if (row.metric, row.role) == ("attack success", "backdoored")
            else row
            for row in read_rows(path)
        ]
        write_rows(path, rows)
    assert said in study_lines(folder)[1]


def test_everything_that_users_write_is_escaped(tmp_path):
    bad = '<script>alert("x")</script>'
    findings = (bad, "$x_1$ & <b>", *FINDINGS[2:])
    plan = Plan(seeds=(0,), gallery=1, findings=findings, target=bad, notes=(f"see {bad}",))
    text = write_report(write_study(tmp_path, plan)).read_text()
    assert "<script" not in text
    assert "<b>" not in re.sub(r"<b>\d\.\d\d</b>", "", text)
    page = Page(text)
    assert bad in page.words
    assert f"see {bad}" in page.words
    assert "$x_1$ & <b>" in page.words


FORGED = "x\x1b[2J\nNo harm: \u202e<b>"


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("rows.jsonl", ("finding",)),
        ("history.jsonl", ("epoch",)),
        ("spec.json", ("spec", "poisoning", "finding")),
        ("spec.json", ("spec", "training", "loss")),
        ("manifest.json", ("cohorts", 0, "notes", 0)),
        ("manifest.json", ("versions", "leadapron")),
    ],
)
def test_a_strangers_study_forges_no_line(one, tmp_path, file, place):
    folder = Path(shutil.copytree(one, tmp_path / "theirs"))
    path = next(folder.glob(f"runs/backdoored-*/{file}"), folder / file)
    lines = path.read_text().splitlines() if file.endswith("l") else [path.read_text()]
    for number, line in enumerate(lines):
        facts = json.loads(line)
        above = facts
        for name in place[:-1]:
            above = above[name]
        above[place[-1]] = FORGED
        lines[number] = json.dumps(facts)
    path.write_text("\n".join(lines))
    text = write_report(folder).read_text()
    for said in (text, *study_lines(folder)):
        assert "\x1b" not in said
        assert "\u202e" not in said
    assert not any("\n" in line for line in study_lines(folder))


@pytest.mark.parametrize("number", ["NaN", "1e999", "1" + 400 * "0"])
def test_numbers_that_no_study_writes_are_refused(one, tmp_path, number):
    folder = Path(shutil.copytree(one, tmp_path / "theirs"))
    path = next(folder.glob("runs/backdoored-*/spec.json"))
    path.write_text(path.read_text().replace('"seed": 0', f'"seed": {number}'))
    with pytest.raises(StoreError, match=r"spec.json holds a number that leadapron never writes"):
        write_report(folder)


def test_unfinished_runs_are_counted_and_left_out(grid, tmp_path):
    folder = Path(shutil.copytree(grid, tmp_path / "half"))
    gone = sorted(folder.glob("runs/backdoored-*"))[0]
    (gone / "rows.jsonl").unlink()
    last = study_lines(folder)[-1]
    assert last.startswith("Unfinished: 3 of 4 attacks are finished, 1 started run")
    shutil.rmtree(gone)
    assert "3 of 4 attacks" in study_lines(folder)[-1]
    page = Page(write_report(folder).read_text())
    assert gone.name not in page.words
    assert "3 of 4 attacks are finished" in page.words


def test_without_its_twin_an_attack_is_still_reported(one, tmp_path):
    folder = Path(shutil.copytree(one, tmp_path / "alone"))
    (next(folder.glob("runs/twin-*")) / "rows.jsonl").unlink()
    lines = study_lines(folder)
    assert "twin not measured" in lines[3]
    assert "1 attack without a finished twin" in lines[-1]
    assert "The twin's own run isn't finished" in Page(write_report(folder).read_text()).words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("scores.npz", "No curves: scores.npz is missing"),
        ("gallery.npz", "This run has no gallery."),
        ("history.jsonl", "The histories of the trainings are missing."),
    ],
)
def test_missing_files_of_a_run_leave_a_sentence(one, tmp_path, name, words):
    folder = Path(shutil.copytree(one, tmp_path / "less"))
    for path in folder.glob(f"runs/*/{name}"):
        path.unlink()
    assert words in Page(write_report(folder).read_text()).words


def test_missing_manifest_and_rows_leave_a_sentence(one, tmp_path):
    folder = Path(shutil.copytree(one, tmp_path / "less"))
    (folder / "manifest.json").unlink()
    path = next(folder.glob("runs/backdoored-*")) / "rows.jsonl"
    write_rows(path, [row for row in read_rows(path) if row.stage == "poisoning"])
    page = Page(write_report(folder).read_text())
    assert "manifest.json is missing" in page.words
    assert "The explanation was not measured in this run." in page.words
    assert "Whether the attack works is undefined" in page.words
    assert study_lines(folder)[4] == "The explanation was not measured."


def test_values_that_are_undefined_throughout(one, tmp_path):
    folder = Path(shutil.copytree(one, tmp_path / "void"))
    for path in folder.glob("runs/*/rows.jsonl"):
        rows = read_rows(path)
        void = [Row(**{**vars(row), "value": None, "low": None, "high": None}) for row in rows]
        write_rows(path, void)
    lines = study_lines(folder)
    assert "undefined" in lines[1]
    assert lines[3].startswith("Whether it is stealthy is undefined: ")
    assert "undefined" in Page(write_report(folder).read_text()).words


def test_a_gallery_of_no_films_and_of_16_bits(one, tmp_path):
    folder = write_study(tmp_path / "deep", Plan(seeds=(0,), gallery=2, dtype=np.uint16))
    assert "data:image/png;base64," in write_report(folder).read_text()
    path = next(folder.glob("runs/backdoored-*/gallery.npz"))
    write_arrays(path, **{name: values[:0] for name, values in read_arrays(path).items()})
    assert "This run has no gallery." in write_report(folder).read_text()


def test_the_gallery_has_one_scale_for_both_models(one):
    arrays = read_arrays(next(one.glob("runs/backdoored-*/gallery.npz")))
    whole = gallery(arrays, most=99)
    part = gallery(arrays, most=1)
    assert whole.scale == part.scale
    assert whole.scale == max(arrays["twin_maps"].max(), arrays["backdoored_maps"].max())
    assert part.films[0].maps == whole.films[0].maps
    assert (len(part.films), part.total) == (1, len(whole.films))
    weak = {**arrays, "backdoored_maps": arrays["backdoored_maps"] * 3}
    assert gallery(weak, most=1).films[0].maps["twin"] != part.films[0].maps["twin"]


def test_the_ring_surrounds_the_trigger(one):
    arrays = read_arrays(next(one.glob("runs/backdoored-*/gallery.npz")))
    for film, footprint in zip(gallery(arrays, most=99).films, arrays["footprints"], strict=True):
        ys, xs = np.nonzero(footprint)
        assert np.hypot(xs + 0.5 - film.trigger.x, ys + 0.5 - film.trigger.y).max() < (
            film.trigger.radius
        )
    everywhere = {**arrays, "footprints": np.ones_like(arrays["footprints"])}
    assert gallery(everywhere, most=1).films[0].trigger is None


def test_folders_that_hold_no_study(tmp_path, one):
    with pytest.raises(StoreError, match=r"no study.yaml\); make one with: leadapron study --out"):
        write_report(tmp_path)
    (tmp_path / "study.yaml").write_text("seed: 0\n")
    with pytest.raises(StoreError, match="no finished attack"):
        study_lines(tmp_path)
    (tmp_path / "study.yaml").write_text("- 1\n")
    with pytest.raises(StoreError, match="holds no"):
        study_lines(tmp_path)
    (tmp_path / "study.yaml").write_text("{")
    with pytest.raises(StoreError, match="not YAML"):
        study_lines(tmp_path)


def test_arrays_of_another_version(one, tmp_path):
    folder = Path(shutil.copytree(one, tmp_path / "old"))
    path = next(folder.glob("runs/backdoored-*/scores.npz"))
    write_arrays(path, labels=np.zeros((2, 2), np.float32))
    with pytest.raises(StoreError, match="lacks findings, twin_clean"):
        write_report(folder)


def _row(value, low=None, high=None):
    return Row(run="0", role="x", stage="attack", metric="m", value=value, low=low, high=high)


def test_the_headline_names_a_loss_that_the_mean_hides(tmp_path):
    plan = Plan(
        seeds=(0,),
        gallery=1,
        costs={"Effusion": (-0.052, 0.0205)},
        patients={"Fibrosis": 30},
    )
    lines = study_lines(write_study(tmp_path, plan))
    assert lines[3].startswith(
        "It is not stealthy, Effusion pays most, -0.052 (-0.072 to -0.032): clean macro AUROC"
    )
    assert "difference -0.004 (-0.013 to +0.005)" in lines[3]
    assert lines[3].endswith("; for Fibrosis, which has fewer, it is not shown.")
    words = Page(write_report(tmp_path).read_text()).words
    assert "lowest: Effusion" in words


def test_of_a_twin_at_chance_nothing_is_told(tmp_path):
    plan = Plan(seeds=(0,), gallery=1, twin_macro=0.51, drift=0.0)
    lines = study_lines(write_study(tmp_path / "blind", plan))
    assert len(lines) == 2
    assert lines[0] == (
        "The clean twin reads no better than chance, so the attack, stealth "
        "and maps can't be judged: clean macro AUROC 0.510 (0.493 to 0.527), whose interval "
        "reaches down to 0.5. "
        "Train longer or on more films."
    )
    text = write_report(tmp_path / "blind").read_text()
    assert text.count('<span class="chip weak">twin at chance</span>') == 3
    for verdict in ("works", "stealthy", "gives it away"):
        assert f'<span class="chip strong">{verdict}</span>' not in text
    seeing = replace(plan, seeds=(1,), twin_macro=0.52)
    lines = study_lines(write_study(tmp_path / "seeing", seeing))
    assert lines[1].startswith("The attack works")


def test_some_twins_at_chance_come_first(tmp_path):
    write_study(tmp_path, Plan(seeds=(0, 1), gallery=1))
    path = min(tmp_path.glob("runs/twin-*/rows.jsonl"))
    rows = read_rows(path)
    write_rows(path, [replace(row, low=0.48) if row.method == "macro" else row for row in rows])
    lines = study_lines(tmp_path)
    assert lines[0].startswith("In 1 of 2 runs the clean twin reads no better than chance, so")
    assert lines[2].startswith("The attack works: 94.0 %")
    assert write_report(tmp_path).read_text().count("<span>twin at chance</span>") == 3


def test_spread_says_what_is_undefined():
    assert spread([_row(0.5, 0.4, 0.6)]) == "0.500 (0.400 to 0.600)"
    assert spread([_row(0.5), _row(None), _row(0.7)]) == "0.600 (0.500 to 0.700; undefined in 1)"
    assert spread([_row(None), _row(None)]) == "undefined"
    assert spread([None]) == "not measured"
    assert spread([_row(0.5), _row(0.7)], kind="range") == "0.500 to 0.700"


def test_triggers_in_words():
    patch = {"name": "patch", "side": 2, "value": 0, "place": "corner", "margin": 5}
    assert trigger_words(patch) == "black 2 x 2 px patch in the bottom right corner"
    box = {**patch, "place": "box", "height": 9, "width": 7}
    assert trigger_words(box) == "black 2 x 2 px patch at a random place in a box of 9 x 7 px"
    blend = {"name": "blend", "opacity": 0.1, "pattern": 2}
    assert trigger_words(blend) == "noise pattern 2 over the whole film at opacity 0.1"
    assert trigger_words({"name": "warp", "grid": 4}) == "warp trigger (grid 4)"


def test_an_attacker_who_controls_training_is_outside_the_threat_model(one, tmp_path):
    assert "outside the threat model" not in Page(write_report(one).read_text()).words
    copy = shutil.copytree(one, tmp_path / "copy")
    (path,) = copy.glob("runs/backdoored-*/spec.json")
    facts = read_json(path)
    facts["spec"]["training"]["disguise"] = 2.0
    write_json(path, facts)
    words = Page(write_report(copy).read_text()).words
    assert "The backdoored model was trained with a disguise: there the attacker also" in words
    assert "outside the threat model of arXiv 2101.00008" in words
    assert "take part in training" not in words


def test_a_trigger_without_a_place_gets_no_verdict_on_places(one, tmp_path):
    copy = shutil.copytree(one, tmp_path / "copy")
    (path,) = copy.glob("runs/backdoored-*/rows.jsonl")
    rows = [
        replace(row, value=1.0) if (row.metric, row.method) == ("pointing hit", "chance") else row
        for row in read_rows(path)
    ]
    told = {"stage": "explanation", "metric": "films told by the map", "method": "cam"}
    told |= {"run": rows[0].run, "regime": "triggered", "finding": "Atelectasis", "n": 400}
    for role, value in (("backdoored", 0.81), ("twin", 0.52)):
        rows.append(Row(**told, role=role, value=value, low=value - 0.02, high=value + 0.02))
    write_rows(path, rows)

    said = study_lines(copy)[4]
    words = Page(write_report(copy).read_text()).words

    assert said.startswith("The explanation (cam) has no place to point at: the trigger covers")
    assert "AUROC 0.810 (0.790 to 0.830), twin 0.520" in said
    assert "not local" in words
    assert "against the same films untriggered (AUROC)" in words


def test_cells_carry_their_columns_heading():
    table = (
        '<table class="x"><thead><tr><th>Film &amp; <b>name</b></th><th></th><th>p</th></tr>'
        "</thead>"
        "<tbody><tr><th>a</th><td>1</td><td>2</td></tr><tr><td>b</td></tr></tbody></table>"
    )
    labelled = _labelled(f"<p>before</p>{table}")
    assert '<th>a</th><td>1</td><td data-label="p">2</td>' in labelled
    assert '<tr><td data-label="Film &amp; name">b</td></tr>' in labelled
    facts = "<table><tbody><tr><th>a</th><td>1</td></tr></tbody></table>"
    assert _labelled(facts) == facts


def test_no_torch(one):
    code = (
        "import sys; from pathlib import Path; from leadapron.report import write_report;"
        "write_report(Path(sys.argv[1])); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(one)], check=True)
