"""The forms of a report: complete in themselves, safe to send around, light, and told apart by a file's name."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tomllib
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pandas
import pytest

from genopt.archive import Archive, load
from genopt.errors import SpecError
from genopt.export import WRITERS, export, settings
from genopt.report.files import form_of, render, save
from genopt.report.heatmap import MOST_CELLS, sheets, told
from genopt.report.markdown import code, fenced, plain
from genopt.report.material import Material, collect
from genopt.report.page import html_report
from genopt.report.reckoning import facts_of
from genopt.report.wording import targets
from tests import hostile
from tests.commands import Shell
from tests.studies import Ran, run
from tests.toy import rows, study

ENTITIES = {"script", "style", "img", "a", "iframe", "object", "link", "base", "form"}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A study of two models with a verdict, rows in groups."""
    folder = tmp_path_factory.mktemp("ran")
    data = [row | {"document": f"d{i // 3:02}"} for i, row in enumerate(rows(90))]
    table = study(
        folder,
        dataset={"rows": data, "holdout": 0.4, "group": "document", "reference": "answer"},
        backend={"kind": "tests.toy:ToyBackend", "model": "a", "options": {"models": {"small": 0.0, "large": 0.2}}},
        space={"model": {"choices": ["small", "large"]}, "temperature": {"low": 0.1, "high": 1.5}},
        search={"sampler": "random"},
        budget={"trials": 16},
    )
    ended = run(table, folder)
    ended.decided()
    return ended


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    folder = tmp_path_factory.mktemp("attacked")
    ended = run(study(folder, **hostile.study_changes()), folder)
    ended.decided()
    return ended.archive


class Reader(HTMLParser):
    """The tags of a page, and the text of each script and style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag
        if tag in self.inside:
            self.inside[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in self.inside:
            self.inside[self._open][-1] += data


def test_the_page_allows_its_own_script_and_style_and_nothing_else(ran: Ran) -> None:
    page = Reader(render(ran.archive, "html"))
    (policy,) = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy).split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    data, script = page.inside["script"]
    (style,) = page.inside["style"]
    for rule, content in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert json.loads(data)["sheets"]
    assert not [a for tag, a in page.tags for name in a if name.startswith("on") or name in ("style", "src", "href")]


def test_what_a_model_wrote_makes_no_tag(attacked: Archive) -> None:
    page = render(attacked, "html")
    tags = [tag for tag, _ in Reader(page).tags if tag in ENTITIES]
    assert tags == ["style", "script", "script"]
    assert "\x1b" not in page and "\u202e" not in page
    assert hostile.SHOWN in page, "control characters are shown, not dropped"


def test_markdown_shows_what_a_model_wrote_as_code_only(attacked: Archive) -> None:
    text = render(attacked, "md")
    assert hostile.SCRIPT in text, "a value of a parameter is in the table of configurations"
    outside = re.sub(r"^(`{3,})$.*?^\1$", "", text, flags=re.M | re.S)
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", outside)
    assert "<script" not in outside and "javascript:" not in outside and "\x1b" not in text


@pytest.mark.parametrize("text", ["plain", "a `tick`", "``two``", "a|b", "``` fence", "line\nbreak", "` \x1b[31m"])
def test_code_and_fences_hold_whatever_is_put_in(text: str) -> None:
    inside = code(text)
    ticks = re.match(r"`+", inside)
    assert ticks is not None and "\n" not in inside and "\x1b" not in inside
    assert ticks[0] not in inside[len(ticks[0]) : -len(ticks[0])].replace("\\|", "|").split(ticks[0] + "`")[0].strip(
        "` "
    )
    block = fenced(text)
    fence = block.splitlines()[0]
    assert fence not in block.splitlines()[1:-1] and block.endswith(f"\n{fence}")


def test_plain_text_means_nothing_to_markdown() -> None:
    assert plain("*a* [b](c) <d> `e`\n# f") == r"\*a\* \[b\]\(c\) \<d\> \`e\` \# f"


def test_every_form_says_the_verdict_and_the_settings(ran: Ran) -> None:
    verdict = ran.decided()
    for form in ("html", "md"):
        text = render(ran.archive, form)  # type: ignore[arg-type]
        assert "Improved: the winner beats the baseline" in text
        assert f"temperature = {verdict.params['temperature']}" in text.replace("&#34;", '"')
    facts = json.loads(render(ran.archive, "json"))
    assert facts["verdict"]["params"] == dict(verdict.params)


def test_the_settings_can_be_copied_for_every_program_the_own_engine_first(ran: Ran) -> None:
    facts = facts_of(collect(ran.archive))
    found = {target.name: target for target in targets(ran.archive, facts)}
    assert list(found)[:2] == ["study file", "JSON"] and set(list(found)[2:]) == set(WRITERS) - {"curl"}
    for name in set(WRITERS) - {"curl"}:  # an engine inside the process has no address to ask
        made = export(settings(ran.archive), name)
        assert (found[name].text, found[name].notes) == (made.text, made.notes)
    assert tomllib.loads(found["study file"].text)["baseline"].items() <= ran.decided().params.items()
    as_ollama = replace(ran.archive, description={**ran.archive.description, "backend": {"engine": "ollama"}})
    assert targets(as_ollama, facts)[0].name == "ollama"
    open_study = replace(ran.archive, verdict=None)
    assert [target.name for target in targets(open_study, facts_of(collect(open_study)))] == ["study file", "JSON"]


def test_each_model_has_a_sheet_of_its_own(ran: Ran) -> None:
    material = collect(ran.archive)
    facts = facts_of(material)
    found = {sheet.model: sheet for sheet in sheets(material, facts)}
    assert set(found) == {"small", "large"}
    for model, sheet in found.items():
        roles = [s.role for s in sheet.settings]
        assert roles.count("baseline") == 1
        assert {s.params["model"] for s in sheet.settings if s.role != "baseline"} == {model}
        assert sheet.grouped and sheet.gains.shape == (len(sheet.settings), facts.groups["tune"])
    assert sum(len(sheet.settings) - 1 for sheet in found.values()) == len(facts.settings) - 1
    page = render(ran.archive, "html")
    assert "Model small" in page and "Model large" in page


def test_the_texts_of_baseline_and_winner_and_those_next_to_them_are_in_the_page(ran: Ran) -> None:
    facts = facts_of(collect(ran.archive))
    near = told(facts, around=2)
    roles = [s.role for s in near]
    assert roles.count("baseline") == roles.count("winner") == 1
    assert 4 <= len(near) <= 6
    rank = {s.key: index for index, s in enumerate(facts.settings)}
    best = facts.setting("winner")
    assert best is not None
    assert min(abs(rank[s.key] - rank[best.key]) for s in near if s is not best) == 1


def multiplied(material: Material, times: int) -> Material:
    """The study with so many copies of its trials, each with the same rows under another key."""
    trials, frames = list(material.archive.trials), [material.frame]
    for copy in range(1, times):
        for trial in material.archive.trials:
            outcome = {name: value for name, value in trial.outcome.items() if name != "baseline"}
            key = f"{trial.config.get('key')} {copy}"
            number = trial.number + copy * len(material.archive.trials)
            trials.append(replace(trial, number=number, config={**trial.config, "key": key}, outcome=outcome))
        keys = material.frame["config_key"] + f" {copy}"
        frames.append(material.frame.assign(config_key=keys, role="trial"))
    return Material(
        replace(material.archive, trials=trials), pandas.concat(frames, ignore_index=True), material.examples
    )


def test_a_study_of_300_configurations_with_long_texts_is_light(ran: Ran) -> None:
    """Of 22 configurations the texts are in the page, 4,000 characters each before they are cut."""
    material = multiplied(collect(ran.archive), 18)
    facts = facts_of(material)
    assert len(facts.settings) > 280
    texts = material.frame["text"].map(lambda text: f"{text} é<&" * 700)
    long = replace(material, frame=material.frame.assign(text=texts))
    heavy, light = (len(html_report(each, facts).encode()) for each in (long, material))
    assert light < 1_000_000 < heavy < 5_000_000


def test_a_map_that_would_be_too_heavy_keeps_the_best_rows(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genopt.report.heatmap.MOST_CELLS", 60)
    monkeypatch.setattr("genopt.report.heatmap.MOST_COLUMNS", 5)
    material = multiplied(collect(ran.archive), 5)
    facts = facts_of(material)
    sheet = sheets(material, facts)[0]
    assert sheet.gains.shape == (30, 5) and sheet.columns_left_out == facts.groups["tune"] - 5
    assert sheet.left_out > 0 and MOST_CELLS > 30_000
    assert "are not shown" in html_report(material, facts)


def test_before_a_verdict_nothing_is_claimed(ran: Ran) -> None:
    open_study = replace(ran.archive, verdict=None)
    page = render(open_study, "html")
    assert "No verdict yet." in page and "Leading settings (not confirmed)" in page
    assert "Nothing was measured on the holdout yet" in page
    assert json.loads(render(open_study, "json"))["held_out"] is None
    assert "Leading settings (not confirmed)" in render(open_study, "md")


def test_a_study_that_has_only_begun_makes_a_report(ran: Ran) -> None:
    material = collect(ran.archive)
    begun = replace(ran.archive, verdict=None, baseline={}, trials=[], workers=[])
    empty = Material(begun, material.frame.iloc[:0], material.examples)
    assert "No verdict yet." in html_report(empty)
    assert facts_of(empty).settings == ()


def test_the_suffix_chooses_the_form() -> None:
    assert [form_of(Path(f"r{suffix}")) for suffix in (".html", ".HTM", ".md", ".json")] == [
        "html",
        "html",
        "md",
        "json",
    ]
    with pytest.raises(SpecError, match=r"report\.pdf: \.pdf is no form of a report"):
        form_of(Path("report.pdf"))


def test_the_command_writes_a_file_or_prints_a_form(
    ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    genopt = Shell(tmp_path, monkeypatch, capsys)
    where = f"{ran.folder / 'toy.db'}#toy"
    assert genopt("report", where).out.startswith("Study toy\n\nImproved: ")
    path = tmp_path / "report.html"
    assert genopt("report", where, "-o", path).code == 0
    assert path.read_text(encoding="utf-8") == render(load(where), "html")
    assert genopt("report", where, "--markdown").out == render(load(where), "md")
    assert json.loads(genopt("report", where, "--json").out)["name"] == "toy"
    refused = genopt("report", where, "-o", tmp_path / "report.pdf")
    assert refused.code == 2 and "is no form of a report" in refused.err
    with pytest.raises(SpecError, match="cannot be written"):
        save(ran.archive, tmp_path / "missing" / "r.html", "json")


def colours() -> list[dict[str, str]]:
    """The named colours of the light and of the dark form."""
    style = (resources.files("genopt.report") / "templates" / "style.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, re.S)
    return [dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", block)) for block in blocks]


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("form", [0, 1], ids=["light", "dark"])
def test_everything_is_legible(form: int) -> None:
    assert len(colours()) == 2
    found = colours()[form]
    for words in ("ink", "quiet", "accent", "good", "bad"):
        for ground in ("paper", "block"):
            assert contrast(found[words], found[ground]) >= 4.5, (words, ground)
    assert contrast(found["paper"], found["accent"]) >= 4.5, "the words on a button"
    on = {0: "on", 1: "mid", 7: "mid", 8: "on"}
    for level in range(9):
        assert contrast(found[f"g{level}"], found[on.get(level, "ink")]) >= 4.5, level
    for mark in ("dot", "focus", "accent"):
        assert contrast(found[mark], found["paper"]) >= 3, mark
