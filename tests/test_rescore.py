"""Scoring a study's texts again: nothing is generated, each distinct text is judged once, and never twice."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from genopt.agreement import spearman
from genopt.errors import BackendError, SpecError
from genopt.report.rescored import rescored_text
from genopt.rescore import Rescored, rescore_async
from genopt.runner import optimize
from genopt.spec.read import make_study, read_scorer
from tests import judges
from tests.commands import Shell
from tests.studies import query

FEW = 3  # words a text: many texts of an example are equal


def table(folder: Path, *, trials: int = 8, rows: int = 40, **changes: Any) -> dict[str, Any]:
    """A study of an author whose texts are scored by how long they are not: by nothing that a judge looks at."""
    return {
        "name": "author",
        "storage": f"sqlite:///{folder / 'author.db'}",
        "seed": 3,
        "dataset": {"rows": [{"id": f"r{n}", "question": f"How was {n}?"} for n in range(rows)], "holdout": 0.4},
        "prompt": {"user": "{{ question }}"},
        "backend": {"kind": "tests.judges:Author", "model": "author"},
        "space": {"skill": {"low": 0.0, "high": 1.0}},
        "baseline": {"words": FEW, "skill": 0.8},
        "scorers": {"early": {"kind": "contains", "values": ["bad"]}},
        "search": {"sampler": "random", "pruner": "none", "finalists": 2},
        "budget": {"trials": trials},
    } | changes


def studied(folder: Path, **changes: Any) -> str:
    """The study, run to its verdict; where it is."""
    optimize(make_study(table(folder, **changes), folder=folder))
    return f"sqlite:///{folder / 'author.db'}#author"


def judge(**options: Any) -> str:
    """A scripted judge of its own engine, as a command line writes it."""
    written = ", ".join(f"{name} = {json.dumps(value)}" for name, value in options.items())
    engine = f'{{kind = "tests.judges:ScriptedJudge", model = "scripted", options = {{{written}}}}}'
    return f'{{kind = "judge", rubric = "Is it good?", backend = {engine}}}'


def again(where: str, scorer: str, **options: Any) -> Rescored:
    return asyncio.run(rescore_async(where, read_scorer(scorer, "rescored"), **options))


def stored(folder: Path) -> list[tuple[Any, ...]]:
    return query(folder, "SELECT * FROM genopt_generations ORDER BY id", name="author.db")


def test_two_thousand_texts_cost_no_generation_and_one_call_for_each_distinct_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = studied(tmp_path, trials=28, rows=110)
    before = stored(tmp_path)
    distinct = query(
        tmp_path, "SELECT COUNT(*) FROM (SELECT DISTINCT example_id, text FROM genopt_generations)", name="author.db"
    )[0][0]
    assert len(before) >= 2000 and distinct < len(before) / 2

    async def never(*_: Any) -> Any:
        raise AssertionError("the study's engine was used")

    monkeypatch.setattr(judges.Author, "open", never)
    monkeypatch.setattr(judges.Author, "generate", never)
    found = again(where, judge())
    assert found.calls == distinct + 1  # one to find out how grades can be read
    assert (found.texts, found.missing) == (len(before), 0)
    assert stored(tmp_path) == before
    repeated = again(where, judge())
    assert repeated.calls == 1
    assert [(each.number, each.new) for each in repeated.trials] == [(each.number, each.new) for each in found.trials]


def test_the_trials_are_ranked_by_the_new_score(tmp_path: Path) -> None:
    found = again(studied(tmp_path), judge())
    assert found.objective == "maximize early"
    whole = [each for each in found.trials if not each.partial]
    assert len(whole) >= 8
    assert [each.new for each in whole] == sorted((each.new for each in whole), reverse=True)
    skills = [float(each.params["skill"] or 0.0) for each in whole]
    assert spearman(skills, [each.new for each in whole]) > 0.85  # the judge sees what the old score looks away from
    assert found.spearman < -0.8 and found.kendall < -0.7
    assert found.holdout is not None and found.holdout.difference < 0  # the old winner writes worse texts
    text = rescored_text(found)
    assert "(old: maximize early)" in text and "nothing was generated" in text and "The judge was asked" in text


def test_any_scorer_will_do_and_its_scores_are_kept(tmp_path: Path) -> None:
    where = studied(tmp_path)
    found = again(where, '{kind = "length", min = 1, max = 4}')
    assert found.calls == 0 and {each.new for each in found.trials} == {1.0}
    keys = query(tmp_path, "SELECT DISTINCT scorer_key FROM genopt_scores", name="author.db")
    assert len(keys) == 2
    with pytest.raises(SpecError, match=r"compares with references, and row 'r0' of 'author' has none"):
        again(where, "rouge_l")
    with pytest.raises(SpecError, match="the study has one of each"):
        again(where, "distinct")


def test_scores_of_several_samples_are_made_of_the_same_samples(tmp_path: Path) -> None:
    where = studied(tmp_path, search={"repeats": 2, "sampler": "random", "pruner": "none"}, trials=3, rows=30)
    found = again(where, "consistency")
    assert found.texts == len(stored(tmp_path)) and found.missing == 0
    assert all(0 < each.new <= 1 for each in found.trials)


def test_a_judge_without_an_engine_asks_the_study_s(tmp_path: Path) -> None:
    engine = {"kind": "tests.judges:Both", "model": "both"}
    where = studied(tmp_path, backend=engine, trials=2, rows=30)
    found = again(where, '{kind = "judge", rubric = "Is it good?"}')
    assert found.calls > 10 and found.missing == 0
    assert found.warnings[0].startswith("scorers.rescored: the judge is the model that it grades")


def test_what_could_not_be_judged_is_told(tmp_path: Path) -> None:
    found = again(studied(tmp_path, trials=2, rows=30), judge(parse_failure_rate=0.7, top_logprobs=0, seed=5))
    assert 0 < found.missing < found.texts
    assert f"{found.missing} of them could not be scored" in rescored_text(found)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, monkeypatch, capsys)


def test_the_command_prints_the_ranking(tmp_path: Path, shell: Shell) -> None:
    where = studied(tmp_path, trials=3, rows=30)
    told = shell("rescore", where, "--scorer", judge())
    assert told.code == 0 and "The two orders: Spearman" in told.out
    plain = shell("rescore", where, "--scorer", judge(), "--json").json
    assert {each["role"] for each in plain["trials"]} == {"baseline", "trial", "winner"}
    assert plain["judge"]["calls"] == 1
    scorer = tmp_path / "strict.toml"
    scorer.write_text('kind = "length"\nmax = 2\n', encoding="utf-8")
    assert shell("rescore", where, "--scorer", scorer).code == 0
    wrong = shell("rescore", where, "--scorer", "{kind = 'jugde'}")
    assert wrong.code == 2 and "Did you mean 'judge'?" in wrong.err


def test_a_study_s_engine_that_cannot_be_opened_again_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = studied(tmp_path, trials=2, rows=30)

    async def refuses(self: judges.Author) -> Any:
        raise OSError("no card")

    monkeypatch.setattr(judges.Author, "open", refuses)
    told = r"backend.kind: tests.judges:Author: open\(\) raised OSError: no card"
    with pytest.raises(BackendError, match=told):
        again(where, '{kind = "judge", rubric = "Is it good?"}')
