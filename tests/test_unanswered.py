"""What an engine refuses for good once the search is paid for: the study comes to a verdict, and says what it lacks."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import genopt
from genopt.confirm import Verdict
from genopt.dataset import split
from genopt.errors import BackendError
from genopt.events import Event, Note
from genopt.types import Example
from tests.dying import command, complete
from tests.openai_double import Double, serving
from tests.processes import log, write_study
from tests.studies import backend, generations, query
from tests.test_resume import requested
from tests.toy import rows, study

ANY = [-1.0, 9.0]
HOT = {"temperature": 1.5, "top_p": 1.0}
GOOD = {"temperature": {"low": 0.3, "high": 0.9}, "top_p": {"low": 0.7, "high": 0.9}}
HELD_OUT = [e.id for e in split([Example(row["id"], row) for row in rows(60)], holdout=0.4, seed=1)[1]]
FAILED = "SELECT config_key, example_id, phase, why FROM genopt_generations WHERE finish = 'error'"


def table(folder: Path, *, baseline: dict[str, Any] = HOT, **options: Any) -> dict[str, Any]:
    """A study whose baseline is easily improved on, on an engine with these options; every request is logged."""
    changes = {"space": GOOD, "baseline": baseline, "budget": {"trials": 8}}
    engine = backend(log=str(folder / "log.jsonl"), **options)
    return study(folder, count=60, **changes, backend=engine, search={"sampler": "random", "pruner": "none"})


def decided(given: dict[str, Any]) -> tuple[Verdict, str]:
    """The verdict, and every note on the way to it."""
    events: list[Event] = []
    verdict = genopt.optimize(given, on_event=events.append).verdict
    return verdict, "\n".join(event.text for event in events if isinstance(event, Note))


def scores(folder: Path) -> dict[tuple[str, str], float]:
    """(config_key, held-out example) -> its score."""
    sql = "SELECT g.config_key, g.example_id, s.value FROM genopt_generations g JOIN genopt_scores s"
    found = query(folder, sql + " ON s.generation_id = g.id WHERE g.phase = 'confirm'")
    return {(key, example): value for key, example, value in found}


def test_held_out_examples_that_are_refused_are_failed_texts_and_the_verdict_says_how_many(tmp_path: Path) -> None:
    lost = HELD_OUT[:3]
    verdict, _ = decided(table(tmp_path, withholds=[lost, *ANY]))
    assert (verdict.verdict, verdict.holdout_examples) == ("improved", 24)
    named = f"{', '.join(sorted(lost))}: refused for good: cannot answer {min(lost)}"
    assert verdict.note == (
        "of 24 held-out examples 3 by the baseline and 3 by the winner could not be answered (3 by neither), and their"
        f" texts are scored lowest: {named}"
    )
    failed = query(tmp_path, FAILED)
    assert Counter(example for _, example, _, _ in failed) == dict.fromkeys(lost, 2)
    found = scores(tmp_path)
    assert {found[key, example] for key, example, _, _ in failed} == {0.0}
    sides = {key: math.fsum(v for (k, _), v in found.items() if k == key) / 24 for key, _ in found}
    assert sorted(sides.values()) == pytest.approx([verdict.baseline_score, verdict.winner_score])
    asked = len(log(tmp_path))
    again, told = decided(table(tmp_path, withholds=[lost, *ANY]))
    assert again == verdict and "reached its verdict before" in told
    assert len(log(tmp_path)) == asked


def test_a_gain_that_only_refusals_of_the_baseline_make_is_not_claimed(tmp_path: Path) -> None:
    verdict, _ = decided(
        table(tmp_path, baseline={"temperature": 1.0, "top_p": 0.8}, withholds=[HELD_OUT[:12], 1.0, 9.0])
    )
    assert verdict.verdict == "not shown"
    assert verdict.p_value is not None and verdict.p_value < 0.05, "the refusals alone would show it"
    assert "12 by the baseline and 0 by the winner could not be answered, and" in verdict.note
    assert "the 12 that both answered do not show it, and a gain over refusals is none; leave such rows" in verdict.note
    assert "--fork NEW_NAME" in verdict.note


@pytest.mark.parametrize(
    ("count", "why"),
    [(14, "the 10 that both answered are too few for a verdict"), (24, "no example is left that both answered")],
)
def test_of_too_few_answers_nothing_is_claimed_and_it_is_said_what_to_do(tmp_path: Path, count: int, why: str) -> None:
    verdict, _ = decided(table(tmp_path, withholds=[HELD_OUT[:count], 1.4, 9.0]))
    assert verdict.verdict == "not shown"
    assert why in verdict.note and "leave such rows out, or correct what makes the engine refuse" in verdict.note
    assert "both were worth the same" not in verdict.note


def test_a_winner_that_is_refused_everything_makes_way_for_the_next_finalist(tmp_path: Path) -> None:
    (tmp_path / "calm").mkdir()
    first, _ = decided(table(tmp_path / "calm"))
    hot = float(first.params["temperature"])
    given = table(tmp_path, withholds=[HELD_OUT, hot, hot + 1e-9])
    verdict, told = decided(given)
    assert verdict.verdict == "improved" and verdict.params["temperature"] != hot
    assert verdict.note == ""
    assert told.count("the winner is left out, since it is refused for good: cannot answer r") == 1
    assert decided(given)[0] == verdict


@pytest.mark.parametrize("objectives", [1, 2], ids=["one objective", "a front"])
def test_finalists_that_are_refused_are_no_end(tmp_path: Path, objectives: int) -> None:
    """The engine refuses all fresh seeds of cool configurations: another one wins."""
    given = table(tmp_path, withholds=[[], 0.0, 0.6])
    if objectives == 2:
        given["objectives"] = [{"maximize": "right"}, {"minimize": "characters"}]
    verdict, _ = decided(given)
    assert verdict.verdict is not None
    assert {phase for *_, phase, _ in query(tmp_path, FAILED)} >= {"tune"}
    if objectives == 1:
        assert verdict.verdict == "improved" and verdict.params["temperature"] >= 0.6


@pytest.mark.parametrize(
    ("withholds", "says"),
    [
        ([HELD_OUT[:4], *ANY], "of 24 held-out examples 4 by the baseline and 4 by the winner could not be answered"),
        ([HELD_OUT, 0.0, 1.4], "of 24 held-out examples 0 by the baseline and 24 by trial "),
    ],
)
def test_a_front_says_what_it_lacks(tmp_path: Path, withholds: list[Any], says: str) -> None:
    objectives = [{"maximize": "right"}, {"minimize": "characters"}]
    verdict, _ = decided(table(tmp_path, withholds=withholds) | {"objectives": objectives})
    assert verdict.verdict == "not shown" and says in verdict.note


def test_an_engine_that_answers_nothing_any_more_ends_the_study_as_before(tmp_path: Path) -> None:
    """It refuses what it has answered before, so that no request is to blame."""
    decided(table(tmp_path))
    before = [line["phase"] for line in log(tmp_path)].index("confirm")
    broken = tmp_path / "broken"
    broken.mkdir()
    with pytest.raises(BackendError, match="the engine is broken"):
        genopt.optimize(table(broken, broken_after=before + 5))
    assert query(broken, FAILED) == []
    verdict, _ = decided(table(broken))
    assert verdict.verdict == "improved" and verdict.note == ""
    assert sorted(generations(broken)) == sorted(generations(tmp_path))


def test_a_server_that_stays_away_ends_the_study_as_before_and_the_same_command_goes_on(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="cannot answer"):
        genopt.optimize(table(tmp_path, withholds=[HELD_OUT[:1], *ANY], away=True))
    assert query(tmp_path, FAILED) == []
    verdict, _ = decided(table(tmp_path))
    assert verdict.verdict == "improved" and verdict.note == ""


def test_a_row_that_is_refused_before_anything_is_paid_for_ends_the_study(tmp_path: Path) -> None:
    given = table(tmp_path, refuses=["temperature", 1.4, 9.0])
    with pytest.raises(BackendError, match="refused") as caught:
        genopt.optimize(given)
    assert "leave it out" in caught.value.hint
    assert query(tmp_path, FAILED) == []


def test_a_fork_asks_anew_what_was_refused(tmp_path: Path) -> None:
    decided(table(tmp_path, withholds=[HELD_OUT[:3], *ANY]))
    verdict = genopt.optimize(table(tmp_path), fork="corrected").verdict
    assert verdict.verdict == "improved" and verdict.note == ""
    assert len(query(tmp_path, FAILED)) == 6, "only those of the first study"


def words(example: Example, text: str) -> float:
    """More is better, until 60."""
    return min(1.0, len(text.split()) / 60)


def test_a_prompt_that_a_server_answers_with_400_is_no_end(tmp_path: Path) -> None:
    lost = HELD_OUT[3]
    given = study(tmp_path, count=60, space={"max_tokens": {"low": 20, "high": 60}}, baseline={"max_tokens": 4})
    given |= {"scorers": {"own": words}, "budget": {"trials": 4}}
    with serving(Double(filtered=f"Is {lost.removeprefix('r')} right?")) as server:
        given["backend"] = {"kind": "openai", "model": "tiny", "options": {"base_url": server.url}}
        verdict, _ = decided(given)
        assert sum(server.filtered in json.dumps(body) for body in server.asked) == 4, "each side twice"
    assert verdict.verdict == "improved" and verdict.ties == 1
    assert "1 by the baseline and 1 by the winner could not be answered (1 by neither)" in verdict.note
    assert f"{lost}: refused for good: the server at http" in verdict.note
    assert verdict.note.endswith("answered 400 Bad Request: the prompt was filtered")


def refusing(folder: Path, delay: float) -> None:
    """A study in a file, two of whose held-out rows are refused."""
    write_study(folder, rows=20, trials=4, delay=delay, search='sampler = "random"\npruner = "none"\nfinalists = 2')
    lost = [e.id for e in split([Example(row["id"], row) for row in rows(20)], holdout=0.4, seed=5)[1]][:2]
    file = folder / "study.toml"
    changed = file.read_text(encoding="utf-8").replace(
        "options = {", f"options = {{ withholds = [{json.dumps(lost)}, -1.0, 9.0],"
    )
    file.write_text(changed, encoding="utf-8")


def test_what_was_refused_is_kept_and_shared(tmp_path: Path) -> None:
    """Killed in the verdict and taken up again, or made by two workers: it is refused once, and the verdict is one."""
    for name in ("calm", "killed", "two"):
        refusing(tmp_path / name, delay=0.002)
    calm = complete(tmp_path / "calm")
    assert calm.code == 0 and "could not be answered" in calm.verdict["note"]
    for place in ("genopt.asking:_or_refused after 1", "genopt.heldout:by_model after 1"):
        assert complete(tmp_path / "killed", place=place).code == -9
    kept, before = len(query(tmp_path / "killed", FAILED)), len(log(tmp_path / "killed"))
    assert kept == 4
    ended = complete(tmp_path / "killed")
    assert ended.code == 0
    assert [line for line in log(tmp_path / "killed")[before:] if line["phase"] == "confirm"] == []
    meet = ("--set", "backend.options.meet=meet.txt")
    with command(tmp_path / "two", *meet) as one, command(tmp_path / "two", *meet) as other:
        both = [one.finish(), other.finish()]
    assert [each.code for each in both] == [0, 0]
    names = ("verdict", "difference", "p_value", "note")
    for each in (ended, *both):
        assert [each.verdict[name] for name in names] == [calm.verdict[name] for name in names]
    assert generations(tmp_path / "two") == generations(tmp_path / "killed") == generations(tmp_path / "calm")
    late = Counter(requested(line) for line in log(tmp_path / "two") if line["phase"] == "confirm")
    assert max(late.values()) == 2, "once, and once again when the engine was seen to work"
