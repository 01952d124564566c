"""What engines and scorers of others hand over: what is sound passes, what is not is refused by name."""

from __future__ import annotations

import asyncio
import math
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genopt import handed
from genopt.errors import BackendError, ScorerError, SpecError
from genopt.prepare import prepare
from genopt.spec.read import make_study
from genopt.types import BackendInfo, Domain, Example, Generation, Request, Score
from tests.judges import ScriptedJudge
from tests.studies import backend, run
from tests.toy import ToyBackend, study

TEXT = Generation("yes", "stop", 10, 1, 0.5)
INFO = BackendInfo({"engine": "mine"}, {"temperature": Domain("float", "t")}, {"temperature": 1.0})


def test_what_is_sound_comes_back_as_it_is() -> None:
    assert handed.generation(TEXT, None) is TEXT
    assert handed.info(INFO, "mine:Engine") is INFO
    given = [Score(0.5), Score(-3.0), Score(None, "no"), Score(np.float32(0.25))]  # type: ignore[arg-type]
    assert handed.scores(given, 4, "right", "r1") == given
    assert handed.scores(tuple(given), 4, "right", "r1") == given


def test_numbers_of_numpy_become_python_s_own() -> None:
    given = replace(TEXT, prompt_tokens=np.int64(10), completion_tokens=np.uint8(1), seconds=np.float32(0.5))  # type: ignore[arg-type]
    kept = handed.generation(given, None)
    assert kept == TEXT
    assert [type(n) for n in (kept.prompt_tokens, kept.completion_tokens, kept.seconds)] == [int, int, float]
    (score,) = handed.scores([Score(np.float32(0.25), "near")], 1, "right", "r1")  # type: ignore[arg-type]
    assert score == Score(0.25, "near") and type(score.value) is float


@pytest.mark.parametrize(
    ("given", "needle"),
    [
        ("yes", "'yes'"),
        (None, "None"),
        (replace(TEXT, text=None), "the text None"),  # type: ignore[arg-type]
        (replace(TEXT, finish="eos"), "'eos', which is none of stop, length"),  # type: ignore[arg-type]
        (replace(TEXT, completion_tokens=None), "completion_tokens = None"),  # type: ignore[arg-type]
        (replace(TEXT, prompt_tokens=-1), "prompt_tokens = -1"),
        (replace(TEXT, seconds=math.nan), "seconds = nan"),
    ],
)
def test_what_is_no_generation_is_the_engines_error(given: Any, needle: str) -> None:
    with pytest.raises(BackendError, match="ToyBackend") as caught:
        handed.generation(given, ToyBackend(model="toy"))
    assert needle in str(caught.value) and "genopt.Generation" in caught.value.hint


@pytest.mark.parametrize("given", [None, "a", "ab", 0.5, [0.5, 0.5], [Score("a"), Score(1.0)], [Score(1.0)]])  # type: ignore[arg-type]
def test_what_is_no_score_for_each_is_the_scorers_error(given: Any) -> None:
    with pytest.raises(ScorerError, match="scorer 'right' gave"):
        handed.scores(given, 2, "right", "r1")


def test_a_score_that_is_not_finite_could_not_be_scored() -> None:
    found = handed.scores([Score(math.inf), Score(math.nan, "empty"), Score(1.0)], 3, "right", "r1")
    assert found == [Score(None, "the scorer gave inf"), Score(None, "empty"), Score(1.0)]


@pytest.mark.parametrize(
    ("given", "needle"),
    [
        (None, "open() gave None"),
        ({"engine": "mine"}, "It has to give a genopt.BackendInfo"),
        (replace(INFO, concurrency=0), "a concurrency of 0"),
        (replace(INFO, defaults={}), "no default of temperature"),
    ],
)
def test_an_engine_that_describes_itself_wrongly_is_refused_before_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: Any, needle: str
) -> None:
    """With a concurrency of 0 a study would wait for ever."""

    async def opened(self: ToyBackend) -> Any:
        return given

    monkeypatch.setattr(ToyBackend, "open", opened)
    with pytest.raises(SpecError) as caught:
        asyncio.run(prepare(make_study(study(tmp_path))))
    assert needle in str(caught.value) and "backend.kind: tests.toy:ToyBackend" in str(caught.value)


class Careless:
    """A scorer that gives bare numbers."""

    needs: frozenset[Any] = frozenset()

    def __init__(self, *, name: str) -> None:
        self.name = name

    async def score(self, example: Example, generations: Sequence[Generation]) -> list[Any]:
        return [1.0 for _ in generations]

    async def aclose(self) -> None:
        """Nothing is held."""


def test_a_study_tells_who_gave_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = run(study(tmp_path, scorers={"right": {"kind": "tests.test_handed:Careless"}}), tmp_path)
    assert isinstance(ran.error, ScorerError) and "scorer 'right' gave 1.0 for example" in str(ran.error)

    async def text(self: ToyBackend, request: Any) -> Any:
        return "yes"

    monkeypatch.setattr(ToyBackend, "generate", text)
    (tmp_path / "again").mkdir()
    ran = run(study(tmp_path / "again"), tmp_path / "again")
    assert isinstance(ran.error, BackendError) and "ToyBackend.generate() gave 'yes'" in str(ran.error)


@pytest.mark.parametrize(("method", "works"), [("open", 0), ("generate", 0), ("generate", 60)])
def test_what_an_engine_raises_is_told_as_its_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, works: int
) -> None:
    """Before anything is asked, of the baseline, and of trials: by name, with what was raised and what to do."""
    real, calls = getattr(ToyBackend, method), []

    async def breaks(self: ToyBackend, *given: Any) -> Any:
        calls.append(given)
        if len(calls) > works:
            raise KeyError("choices")
        return await real(self, *given)

    monkeypatch.setattr(ToyBackend, method, breaks)
    if method == "open":
        with pytest.raises(BackendError) as caught:
            asyncio.run(prepare(make_study(study(tmp_path), folder=tmp_path)))
        error: BaseException = caught.value
    else:
        ran = run(study(tmp_path), tmp_path)
        assert ran.error is not None
        error = ran.error
        assert bool(ran.trials) == bool(works)
    assert isinstance(error, BackendError)
    assert "breaks" in [frame.name for frame in traceback.extract_tb(error.__traceback__)], "--debug shows where"
    assert str(error) == f"backend.kind: tests.toy:ToyBackend: {method}() raised KeyError: 'choices'"
    assert "--debug ... shows where. Correct an engine of your own there" in error.hint


JUDGE = {"kind": "judge", "rubric": "Is it right?", "check": False}
OWN = {"kind": "tests.toy:ToyBackend", "model": "judge"}


@pytest.mark.parametrize(
    ("method", "changes", "where"),
    [
        (
            "models",
            {"backend": backend(models={"a": 0.0, "b": 0.1}), "space": {"model": {"choices": ["a", "b"]}}},
            "backend.kind: tests.toy:ToyBackend",
        ),
        (
            "models",
            {
                "scorers": {
                    "fair": JUDGE | {"backend": OWN | {"options": {"models": {"a": 0.0}}}, "params": {"model": "a"}}
                }
            },
            "scorers.fair: ToyBackend",
        ),
        ("generate", {"scorers": {"fair": JUDGE}}, "scorers.fair: ToyBackend"),
        ("generate", {"scorers": {"fair": JUDGE | {"backend": OWN}}}, "scorers.fair: ToyBackend"),
    ],
)
def test_what_an_engine_raises_is_told_wherever_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, changes: dict[str, Any], where: str
) -> None:
    """Of its models, by the study or a judge; by a judge on the study's engine, and by one on an engine of its own."""

    async def breaks(self: ToyBackend, *given: Any) -> Any:
        raise KeyError("choices")

    monkeypatch.setattr(ToyBackend, method, breaks)
    with pytest.raises((BackendError, SpecError)) as caught:
        asyncio.run(prepare(make_study(study(tmp_path, **changes), folder=tmp_path)))
    assert f"{where}: {method}() raised KeyError: 'choices'" in str(caught.value)


def test_a_judge_s_engine_that_cannot_be_opened_or_gives_no_text_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuses(self: ScriptedJudge) -> BackendInfo:
        raise OSError("no card")

    async def mute(self: ScriptedJudge, request: Request) -> Any:
        return None

    own = {"kind": "tests.judges:ScriptedJudge", "model": "scripted"}
    spec = make_study(study(tmp_path, scorers={"fair": JUDGE | {"backend": own}}), folder=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(ScriptedJudge, "open", refuses)
        with pytest.raises(BackendError) as caught:
            asyncio.run(prepare(spec))
    told = "scorers.fair.backend.kind: tests.judges:ScriptedJudge: open() raised OSError: no card"
    assert str(caught.value) == told
    monkeypatch.setattr(ScriptedJudge, "generate", mute)
    with pytest.raises(SpecError, match=r"ScriptedJudge.generate\(\) gave None"):
        asyncio.run(prepare(spec))


def test_what_cannot_be_closed_does_not_take_the_verdict_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(self: ToyBackend) -> None:
        raise RuntimeError("no such process")

    monkeypatch.setattr(ToyBackend, "aclose", broken)
    assert run(study(tmp_path), tmp_path).decided().verdict is not None
    assert "backend could not be closed (RuntimeError: no such process)" in caplog.text
