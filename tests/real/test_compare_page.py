"""The comparison page in a real Chromium: readable, filtered, and asking nobody for anything."""

from __future__ import annotations

import json

import pytest

from genopt.compare import compare
from genopt.compare.page import write_page
from genopt.compare.sides import from_file
from tests.hostile import HOSTILE, SCRIPT
from tests.real.browser import Browser

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Forty rows: twenty better on side B, five worse, the others equal; one text is hostile, ten are the same."""
    folder = tmp_path_factory.mktemp("page")
    for name in ("a", "b"):
        rows = []
        for i in range(40):
            score = 0.5 if name == "a" else 0.9 if i < 20 else 0.1 if i < 25 else 0.5
            text = HOSTILE if i == 0 and name == "b" else "the same" if i >= 30 else f"{name} wrote {i}"
            rows.append({"id": f"row-{i}", "question": f"<b>{i}</b>?", "output": text, "score": score})
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = compare(from_file(str(folder / "a.jsonl")), from_file(str(folder / "b.jsonl")))
    write_page(found, folder / "compare.html")
    return (folder / "compare.html").as_uri()


SHOWN = "[...document.querySelectorAll('.pair')].filter((row) => !row.hidden).length"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_it_reads_well_and_asks_for_nothing(browser: Browser, address: str, width: int, scheme: str) -> None:
    page = browser.open(address, width=width, height=844, scheme=scheme)
    assert page.evaluate("document.querySelector('h1').textContent").startswith("B is better")
    assert page.box("h1")["y"] + page.box("h1")["height"] < 844
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("window.obeyed") is None
    assert SCRIPT in page.evaluate("document.body.innerText")
    assert "<b>0</b>?" in page.evaluate("document.body.innerText")
    assert page.requests == [address]
    assert not page.problems


def test_the_filters_choose_rows(browser: Browser, address: str) -> None:
    page = browser.open(address)
    assert page.evaluate(SHOWN) == 40
    for kind, count in (("worse", 5), ("better", 20), ("different", 30), ("all", 40)):
        page.click(f"[data-show={kind}]")
        assert page.evaluate(SHOWN) == count
    page.evaluate(
        "const box = document.getElementById('grep'); box.value = 'wrote 2\\\\d'; box.dispatchEvent(new Event('input'))"
    )
    assert page.evaluate(SHOWN) == 10
    page.click("[data-show=worse]")
    assert page.evaluate(SHOWN) == 5
    page.evaluate(
        "document.getElementById('grep').value = '('; document.getElementById('grep').dispatchEvent(new Event('input'))"
    )
    assert page.evaluate("document.getElementById('grep').getAttribute('aria-invalid')") == "true"
    assert page.evaluate(SHOWN) == 5
