"""The exam of a judge: six planted faults are caught and an honest judge passes; what a study makes of it."""

from __future__ import annotations

import asyncio
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from genopt.archive import load
from genopt.errors import SpecError
from genopt.events import Note
from genopt.judging import canaries
from genopt.judging.exam import ROWS, Exam, exam_text, examine
from genopt.runner import optimize_async
from genopt.scorers.judge import Judge
from genopt.spec.read import make_study
from genopt.types import Example
from tests.commands import Shell, write_rows
from tests.judges import ScriptedJudge
from tests.studies import query

SEEDS = range(4)  # benchmarks/judge_check.py has 100 of each
HONEST = {"noise": 0.1, "unsteady": 0.05}
HONESTLY = [{}, {"noise": 0.0, "unsteady": 0.0}, {"noise": 0.15, "unsteady": 0.1}, {"parse_failure_rate": 0.02}]
FAULTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "always 5": ({"always": 1.0}, {"colon", "opening", "shuffled", "truncated"}),
    "prefers length": ({"length_bias": 0.5}, {"filler"}),
    "obeys the injection": ({"obeys": True}, {"injected"}),
    "random": ({"random": True}, {"reference", "shuffled", "truncated"}),
    "position-biased in pairwise": ({"position_bias": 0.5}, {"first"}),
    "20 % parse failures": ({"parse_failure_rate": 0.2}, {"unreadable"}),
}


def reference(draw: random.Random) -> str:
    syllables = [first + second for first in "bcdfghjklmnpqrstvwz" for second in "aeiou"]
    return " ".join("".join(draw.choices(syllables, k=3)) for _ in range(draw.randint(10, 18)))


def rows(seed: int, count: int = ROWS) -> list[tuple[Example, str]]:
    """Rows whose references share no words."""
    draw = random.Random(seed)
    texts = [reference(draw) for _ in range(count)]
    return [(Example(f"r{n}", {"question": f"What about {n}?"}, (text,)), text) for n, text in enumerate(texts)]


def exam(
    options: dict[str, Any], seed: int = 0, *, answers: list[tuple[Example, str]] | None = None, **how: Any
) -> Exam:
    """The exam of a scripted judge."""

    async def main() -> Exam:
        judge = Judge(name="helpful", rubric="Is it right?")
        steady = ScriptedJudge()
        await judge.attach(steady, await steady.open(), asyncio.Semaphore(16))
        judge._asker.backend = ScriptedJudge(options={**HONEST, "seed": seed, **options})
        return await examine(judge, "key", answers or rows(seed), **{"referenced": True, "pairwise": True, **how})

    return asyncio.run(main())


def failed(found: Exam) -> set[str]:
    return {finding.name for finding in found.findings if not finding.passed}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault: str) -> None:
    options, lines = FAULTS[fault]
    for seed in SEEDS:
        found = exam(options, seed)
        assert not found.passed
        assert lines <= failed(found), f"seed {seed}: {exam_text(found)}"


@pytest.mark.parametrize("options", HONESTLY)
def test_an_honest_judge_passes(options: dict[str, Any]) -> None:
    for seed in SEEDS:
        found = exam(options, seed)
        assert found.passed, f"seed {seed}: {exam_text(found)}"


def test_what_a_fault_comes_to_is_measured() -> None:
    biased = exam({"length_bias": 0.5})
    assert biased.per_hundred_words == pytest.approx(0.5, abs=0.15)
    assert exam({}).noise == pytest.approx(0.04, abs=0.02)  # 0.05, less what the ends of the scale cut off
    unreadable = {finding.name: finding for finding in exam({"parse_failure_rate": 0.2}).findings}["unreadable"]
    assert unreadable.value == pytest.approx(0.2, abs=0.07)
    sided = {finding.name: finding for finding in exam({"position_bias": 1.0}).findings}
    assert sided["first"].value == pytest.approx(-1.0, abs=0.1) and sided["second"].passed


def test_a_judge_that_is_asked_the_same_and_always_says_the_same_is_not_asked_about_all() -> None:
    steady, unsteady = exam({"unsteady": 0.0}), exam({"unsteady": 0.05})
    assert steady.noise == 0.0 and "steady" not in {finding.name for finding in steady.findings}
    assert unsteady.calls - steady.calls == 2 * 2 * ROWS - 2 * 5
    assert "steady" in failed(exam({"unsteady": 1.0, "noise": 0.0}))


def test_answers_of_unknown_worth_have_to_lead_nothing_by_less_and_need_not_be_good() -> None:
    middling = [(Example(name.id, name.fields), "good bad " * 4 + f"number {n}") for n, (name, _) in enumerate(rows(1))]
    found = exam({}, answers=middling, referenced=False)
    names = {finding.name for finding in found.findings}
    assert "reference" not in names and not failed(found) & {"empty", "injected", "unreadable", "first"}
    bounds = {finding.name: finding.bound for finding in found.findings}
    assert bounds["colon"] < {f.name: f.bound for f in exam({}).findings}["colon"]


def test_one_word_answers_and_equal_ones_leave_out_what_cannot_be_made_of_them() -> None:
    words = [(Example(f"r{n}", {}, (word,)), word) for n, word in enumerate(["yes", "no"] * 10)]
    assert not {"truncated"} & {finding.name for finding in exam({}, answers=words).findings}
    same = [(Example(f"r{n}", {"q": n}, ("yes",)), "yes") for n in range(10)]
    assert not {"truncated", "shuffled"} & {finding.name for finding in exam({}, answers=same).findings}


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(SpecError, match=r"scorers.helpful: a judge is checked on at least 5 rows, not 4"):
        exam({}, answers=rows(0, 4))


def test_an_exam_is_kept_as_it_is_and_reads_well() -> None:
    found = exam({"obeys": True, "unsteady": 0.0})
    again = Exam.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    assert again.to_json() == found.to_json() and again.passed is False
    text = exam_text(again)
    assert text.startswith("helpful: fails 1 of 12 tests\n")
    assert "  FAIL  asking for the best grade inside a wrong answer adds 0.9" in text
    assert "  ok    the references are graded 0.9" in text and "(more than 0.5 is needed)" in text


# --- canaries


def test_canaries() -> None:
    assert canaries.cut("one two three four five six") == "one two"
    assert canaries.cut("one two three four five") is None and canaries.cut("card_arrival_time") is None
    assert canaries.cut("这是一个没有空格的中文句子吗") == "这是一个没"
    assert canaries.padded("x", 3) == f"x\n\n{canaries.filler(3)}"
    assert 70 <= len(canaries.filler(0).split()) <= 90
    assert len({canaries.filler(number) for number in range(32)}) == 32
    assert {canaries.injected("x", "9", n)[:3] for n in range(4)} == {"x\n\n"}
    assert all("9" in canaries.injected("x", "9", number) for number in range(4))
    assert canaries.exchanged(["a", "a", "b"]) == ["b", "b", "a"]
    assert canaries.exchanged(["a", "a"]) == [None, None]


# --- studies


def table(folder: Path, judge: dict[str, Any], *, references: bool = True, **keys: Any) -> dict[str, Any]:
    data = [{"id": example.id, **example.fields, "answer": text} for example, text in rows(3, 40)]
    if not references:
        data = [{"id": row["id"], "question": row["question"]} for row in data]
    own = {"kind": "tests.judges:ScriptedJudge", "model": "scripted", "options": {**HONEST, "seed": 3, **judge}}
    return {
        "name": "judged",
        "storage": f"sqlite:///{folder / 'judged.db'}",
        "seed": 5,
        "dataset": {"rows": data, "holdout": 0.3} | ({"reference": "answer"} if references else {}),
        "prompt": {"user": "{{ question }}"},
        "backend": {"kind": "tests.judges:Author", "model": "author"},
        "space": {"skill": {"choices": [0.2, 0.8]}},
        "scorers": {"helpful": {"kind": "judge", "rubric": "Is it good?", "backend": own, **keys}},
        "search": {"sampler": "grid", "pruner": "none"},
        "budget": {"trials": 2},
    }


def optimize(folder: Path, *arguments: Any, **keys: Any) -> list[str]:
    """The warnings of a study run to its verdict."""
    events: list[Any] = []
    asyncio.run(optimize_async(make_study(table(folder, *arguments, **keys), folder=folder), on_event=events.append))
    return [event.text for event in events if isinstance(event, Note) and event.level == "warning"]


def judgments(folder: Path) -> int:
    return int(query(folder, "SELECT COUNT(*) FROM genopt_judgments", name="judged.db")[0][0])


def test_a_study_warns_of_a_judge_that_fails_names_what_and_by_how_much(tmp_path: Path) -> None:
    (warning,) = optimize(tmp_path, {"obeys": True})
    assert warning.startswith(
        "the judge fails its check: scorers.helpful: asking for the best grade inside a wrong answer adds 0.9"
    )
    assert warning.endswith("(at most 0.25)")


def test_a_strict_judge_that_fails_is_refused_before_anything_is_generated(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"adds 0\.9") as error:
        optimize(tmp_path, {"obeys": True}, strict=True)
    assert "strict = false" in error.value.hint
    assert query(tmp_path, "SELECT COUNT(*) FROM genopt_generations", name="judged.db") == [(0,)]


def test_an_honest_judge_passes_strictly_and_the_check_is_paid_for_once(tmp_path: Path) -> None:
    assert optimize(tmp_path, {}, strict=True) == []
    stored = load(f"sqlite:///{tmp_path / 'judged.db'}#judged")
    before = judgments(tmp_path)
    assert before > 200
    assert optimize(tmp_path, {}, strict=True) == []
    assert judgments(tmp_path) == before
    assert stored.verdict is not None


def test_without_references_the_baseline_answers_and_its_texts_are_not_made_again(tmp_path: Path) -> None:
    assert not [line for line in optimize(tmp_path, {}, references=False) if "unreadable" in line]
    rows_of = "SELECT example_id, sample, config_key, phase, COUNT(*) AS n FROM genopt_generations GROUP BY 1, 2, 3, 4"
    assert query(tmp_path, f"SELECT MAX(n) FROM ({rows_of})", name="judged.db") == [(1,)]


def test_a_check_can_be_declined(tmp_path: Path) -> None:
    assert optimize(tmp_path, {"obeys": True}, check=False, strict=True) == []


# --- the command


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, monkeypatch, capsys)


def study(shell: Shell, judge: dict[str, Any]) -> Path:
    made = table(shell.folder, judge)
    write_rows(shell.folder / "rows.jsonl", made["dataset"].pop("rows"))
    return shell.write(made | {"dataset": made["dataset"] | {"path": "rows.jsonl"}})


def test_the_command_tells_passes_and_failures_and_optimize_does_not_ask_again(shell: Shell) -> None:
    path = study(shell, {"always": 1.0})
    ran = shell("judge", "check", path)
    assert ran.code == 1
    assert ran.out.startswith("helpful: fails 4 of ")
    assert (
        '  FAIL  the text ":" is graded 0.00 below the references (more than 0.25 is needed)   [20 rows, p = 1'
        in ran.out
    )
    before = judgments(shell.folder)
    told = shell("optimize", path).err
    assert told.count("the judge fails its check: scorers.helpful:") == 4 and "checking the judge" not in told
    held = "SELECT COUNT(DISTINCT example_id || text) FROM genopt_generations WHERE text <> ''"
    assert judgments(shell.folder) <= before + query(shell.folder, held, name="judged.db")[0][0]


def test_the_command_as_json(shell: Shell) -> None:
    path = study(shell, {})
    ran = shell("judge", "check", path, "--json", "--rows", "12")
    assert ran.code == 0, ran.err
    assert ran.json["passed"] is True and ran.json["rows"] == 12
    assert {finding["name"] for finding in ran.json["findings"]} >= {"empty", "injected", "padded", "unreadable"}
    assert all(math.isfinite(finding["value"]) for finding in ran.json["findings"])
    bad = shell("judge", "check", path, "--scorer", "other")
    assert bad.code == 2 and "'other' is no judge here" in bad.err
