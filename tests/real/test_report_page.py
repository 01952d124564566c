"""The report in a real browser: it asks nobody for anything, obeys nothing that a model wrote, and answers clicks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genopt.archive import Archive
from genopt.report.files import render
from genopt.report.material import Material, collect
from tests import hostile
from tests.real.browser import Browser, Page
from tests.studies import run
from tests.toy import rows, study

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """A study with a verdict: rows in groups of three, some trials stopped early."""
    folder = tmp_path_factory.mktemp("finished")
    data = [row | {"document": f"d{i // 3:02}"} for i, row in enumerate(rows(90))]
    dataset = {"rows": data, "holdout": 0.4, "group": "document", "reference": "answer"}
    ended = run(study(folder, dataset=dataset, budget={"trials": 24}, search={"sampler": "random"}), folder)
    ended.decided()
    return ended.archive


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    folder = tmp_path_factory.mktemp("attacked")
    ended = run(study(folder, **hostile.study_changes()), folder)
    ended.decided()
    return ended.archive


def written(archive: Archive, folder: Path) -> str:
    """The address of the report's file."""
    path = folder / "report.html"
    path.write_text(render(archive, "html"), encoding="utf-8")
    return path.as_uri()


def cell(page: Page, row: int, column: int) -> tuple[float, float]:
    """Where the middle of a cell lies in the first heat map, as fractions of its box."""
    place = page.evaluate("({...document.querySelector('svg.heat').dataset})")
    view = page.evaluate("document.querySelector('svg.heat').viewBox.baseVal.width")
    height = page.evaluate("document.querySelector('svg.heat').viewBox.baseVal.height")
    x = float(place["left"]) + float(place["each"]) * (column + 0.5)
    y = float(place["top"]) + float(place["high"]) * (row + 0.5)
    return x / view, y / height


def first_text(material: Material, key: str, example: str) -> str:
    frame = material.frame
    chosen = frame[(frame["config_key"] == key) & (frame["example_id"] == example) & (frame["sample"] == 0)]
    return str(chosen[chosen["phase"] == "tune"]["text"].item())


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_from_a_file_without_a_request_or_a_complaint(
    browser: Browser, finished: Archive, tmp_path: Path, width: int, height: int, scheme: str
) -> None:
    url = written(finished, tmp_path)
    page = browser.open(url, width=width, height=height, scheme=scheme)
    assert page.requests == [url]
    assert page.problems == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page is wider than the screen"
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 27)")


def test_a_broken_page_would_be_noticed(browser: Browser, tmp_path: Path) -> None:
    """The two lists that the tests find empty do fill."""
    (tmp_path / "x.html").write_text(
        "<meta http-equiv='Content-Security-Policy' content=\"img-src 'none'\"><img src='http://127.0.0.1:9/x.png'>"
        "<script>console.error('said'); undefined_name</script>"
    )
    page = browser.open((tmp_path / "x.html").as_uri())
    assert "said" in page.problems
    assert any("undefined_name" in problem for problem in page.problems)
    assert any("Content Security Policy" in problem for problem in page.problems)
    (tmp_path / "y.html").write_text("<img src='z.png'>")
    assert len(browser.open((tmp_path / "y.html").as_uri()).requests) == 2


def test_on_a_phone_the_verdict_and_the_settings_are_on_the_first_screen(
    browser: Browser, finished: Archive, tmp_path: Path
) -> None:
    page = browser.open(written(finished, tmp_path), width=390, height=844)
    for selector in ("h1", ".settings", "#copy"):
        box = page.box(selector)
        assert box["top"] >= 0 and box["bottom"] <= 844, (selector, box)


def test_the_copy_button_copies_the_block_that_is_shown(browser: Browser, finished: Archive, tmp_path: Path) -> None:
    browser.call("Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]})
    page = browser.open(written(finished, tmp_path))
    page.call("Page.bringToFront")
    blocks = page.evaluate("[...document.querySelectorAll('.target pre')].map((block) => block.textContent)")
    assert len(blocks) >= 2
    for index, block in enumerate(blocks):
        page.click(f"#tabs button:nth-child({index + 1})")
        assert page.evaluate("[...document.querySelectorAll('.target')].filter((t) => !t.hidden).length") == 1
        page.click("#copy")
        page.wait("document.getElementById('copied').textContent === 'Copied.'")
        assert page.evaluate("navigator.clipboard.readText()") == block
        page.evaluate("document.getElementById('copied').textContent = ''")
    settings = json.loads(next(block for block in blocks if block.startswith("{")))
    verdict = finished.verdict or {}
    assert settings.items() <= verdict["params"].items()


def test_a_click_on_a_cell_shows_its_texts_and_the_arrow_keys_go_to_its_neighbours(
    browser: Browser, finished: Archive, tmp_path: Path
) -> None:
    material = collect(finished)
    page = browser.open(written(finished, tmp_path))
    data = json.loads(page.evaluate("document.getElementById('data').textContent"))
    sheet = data["sheets"][0]
    row = next(i for i, key in enumerate(sheet["rows"]) if key != data["baseline"])
    for column in (0, len(sheet["columns"]) - 1):
        page.click("svg.heat", *cell(page, row, column))
        assert page.evaluate("document.getElementById('cell-0').hidden") is False
        shown = page.evaluate("document.getElementById('cell-0').textContent")
        unit = sheet["columns"][column]
        assert f" on {unit['name']}: " in shown
        assert len(unit["examples"]) > 1, "the rows are in groups"
        outputs = page.evaluate("[...document.querySelectorAll('#cell-0 .output')].map((p) => p.textContent)")
        names = [data["examples"][index]["id"] for index in unit["examples"]]
        keys = (data["baseline"], sheet["rows"][row])
        assert outputs == [first_text(material, key, name) for name in names for key in keys]
    page.evaluate("document.querySelector('svg.heat').focus()")
    page.press("ArrowLeft")
    page.press("Enter")
    before = sheet["columns"][len(sheet["columns"]) - 2]["name"]
    assert f" on {before}: " in page.evaluate("document.querySelector('#cell-0 h3').textContent")
    assert page.problems == []


def test_texts_that_are_not_in_the_page_say_where_they_are(browser: Browser, finished: Archive, tmp_path: Path) -> None:
    page = browser.open(written(finished, tmp_path))
    page.evaluate("(() => { const key = data.sheets[0].rows[0]; delete data.texts[key]; })()")
    page.click("svg.heat", *cell(page, 0, 0))
    assert "genopt export" in page.evaluate("document.getElementById('cell-0').textContent")


def test_nothing_that_a_model_or_a_row_says_is_obeyed(browser: Browser, attacked: Archive, tmp_path: Path) -> None:
    url = written(attacked, tmp_path)
    page = browser.open(url)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.click("svg.heat", *cell(page, 0, 0))
    shown = page.evaluate("document.body.innerText")
    assert hostile.MARKUP in shown and hostile.LINK in shown and hostile.SHOWN in shown
    assert "\x1b" not in page.evaluate("document.documentElement.outerHTML")
    assert "{{ 7 * 7 }}" in shown
    assert page.evaluate("typeof window.obeyed") == "undefined"
    assert page.evaluate("document.querySelectorAll('a, img, iframe, object, form, base').length") == 0
    assert page.evaluate("document.scripts.length") == 2
    assert page.evaluate("document.querySelectorAll('style, link').length") == 1
    assert page.evaluate("getComputedStyle(document.body).display") == "block"
    assert page.requests == [url] and page.problems == []
    assert hostile.MARKUP in page.evaluate("document.querySelector('#cell-0 .output').textContent")


def test_on_paper_everything_is_open_and_fits(browser: Browser, finished: Archive, tmp_path: Path) -> None:
    page = browser.open(written(finished, tmp_path), width=760, height=1000)
    assert page.evaluate("[...document.querySelectorAll('details')].every((each) => each.open)") is False
    assert page.call("Page.printToPDF")["data"]
    assert page.evaluate("[...document.querySelectorAll('details')].every((each) => each.open)") is True
    page.call("Emulation.setEmulatedMedia", media="print")
    widths = page.evaluate("[...document.querySelectorAll('.chart')].map((c) => c.scrollWidth - c.clientWidth)")
    assert widths and max(widths) <= 0, "a chart is cut off"
    assert page.evaluate("getComputedStyle(document.getElementById('copy')).display") == "none"
