"""Every page in a browser: on a telephone, on a screen and on paper. `make test-pages` runs it."""

from __future__ import annotations

import os

import pytest

pytestmark = pytest.mark.browser

NAMES = (
    "study", "grid", "crossed", "many", "blind", "audit", "audit-alone", "scan", "scan-clean",
    "screen", "description", "inspection",
)  # fmt: skip
# A4 less its margins has 688 of a browser's pixels.
FORMATS = {"telephone": (390, "screen"), "screen": (1280, "screen"), "paper": (688, "print")}

BEYOND = """() => {
  const width = document.documentElement.clientWidth;
  const found = document.documentElement.scrollWidth > width ? ["the page itself"] : [];
  for (const one of document.body.querySelectorAll("*")) {
    const box = one.getBoundingClientRect();
    const name = `${one.tagName} ${one.textContent.trim().slice(0, 40)}`;
    if (box.width && box.height && (box.right > width + 1 || box.left < -1)) found.push(name);
    // What scrolls inside the page hides columns as well.
    if (one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).overflowX != "visible"
        && one.clientWidth > 1) found.push(`scrolls: ${name}`);
  }
  return found.slice(0, 5);
}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    from pages import write_pages

    folder = os.environ.get("LEADAPRON_PAGES") or tmp_path_factory.mktemp("pages")
    found = write_pages(folder)
    assert set(found) == set(NAMES)
    return found


@pytest.fixture
def opened(browser, pages):
    """Open a page in a format; what it asks for and complains of is collected."""
    closing = []

    def open_page(name, form="screen"):
        width, media = FORMATS[form]
        page = browser.new_page(viewport={"width": width, "height": 900})
        closing.append(page)
        page.asked, page.said = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.emulate_media(media=media)
        page.goto(pages[name].as_uri())
        for details in page.query_selector_all("details"):
            details.evaluate("one => { one.open = true; }")
        return page

    yield open_page
    for page in closing:
        page.close()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_leaves_the_page_and_it_asks_for_nothing(opened, pages, name, form):
    page = opened(name, form)
    assert page.evaluate(BEYOND) == []
    others = [url for url in page.asked if not url.startswith("data:")]
    assert others == [pages[name].as_uri()]
    assert page.said == []
    broken = "() => [...document.images].filter(one => !one.naturalWidth).length"
    assert page.evaluate(broken) == 0


@pytest.mark.parametrize("form", FORMATS)
def test_verdicts_are_in_view(opened, form):
    width = FORMATS[form][0]
    for name, words in (
        ("grid", "works partly"),
        ("many", "works partly"),
        ("audit", "backdoored (one-hot)"),
        ("screen", "suspicious"),
    ):
        cell = opened(name, form).locator("td", has_text=words).first
        assert cell.is_visible()
        box = cell.bounding_box()
        assert 0 <= box["x"] < box["x"] + box["width"] <= width + 1


@pytest.mark.parametrize("form", ["telephone", "screen"])
def test_a_cell_says_what_it_is_where_there_are_no_columns(opened, form):
    page = opened("scan", form)
    cell = page.locator("#methods ~ .scroll td").first
    shown = cell.evaluate("one => getComputedStyle(one, '::before').content")
    assert shown == ('"things tested"' if form == "telephone" else "none")
    assert page.locator("#methods ~ .scroll thead").is_visible() == (form == "screen")


def test_the_audit_opens_with_verdict_mark_and_tiles(opened):
    page = opened("audit", "telephone")
    places = [
        page.locator(what).first.bounding_box()["y"]
        for what in (".alarm", ".target svg", ".cards", "#findings")
    ]
    assert places == sorted(places)
    assert page.locator(".target").inner_text().startswith("The mark for Mass forced on")
    for name in ("audit", "audit-alone"):
        assert "--" not in opened(name).locator("body").inner_text()


def test_a_grid_is_drawn_over_its_axes(opened):
    assert opened("grid").locator("#runs ~ .panels svg.figure").count() == 1
    heat = opened("crossed").locator("table.heat")
    assert heat.locator("tbody tr").count() == 3
    assert heat.locator("tbody td").count() == 6
    assert "94.0" in heat.inner_text()
    assert opened("many").locator("#runs ~ .panels svg.figure").count() == 3


def test_a_study_opens_with_plain_words(opened):
    page = opened("study", "telephone")
    plain = page.locator(".plain")
    assert plain.bounding_box()["y"] < page.locator(".summary").bounding_box()["y"]
    assert "reports Nodule on 94 of 100 marked films without it" in plain.inner_text()
    assert "AUROC" not in plain.inner_text()
    assert "Nothing can be concluded" in opened("blind").locator(".plain").inner_text()


def test_an_inspection_opens_with_what_to_state(opened):
    page = opened("inspection", "telephone")
    places = [
        page.locator(what).first.bounding_box()["y"]
        for what in (".alarm", ".cards", "#settings", "svg.chart", ".seen")
    ]
    assert places == sorted(places)
    assert "--model.aspect squash|pad|crop" in page.locator(".alarm").inner_text()
    # Words of the chart stay as large as a telephone's small print.
    words = page.locator("svg.chart text").first.bounding_box()
    assert words["height"] >= 9
    assert page.locator("details tbody tr").count() == 1


def test_a_page_fits_paper(opened, tmp_path):
    page = opened("study", "paper")
    page.pdf(path=str(tmp_path / "page.pdf"), format="A4")
    assert (tmp_path / "page.pdf").read_bytes()[:4] == b"%PDF"
