"""The benchmarks at a tiny size: every way keeps what it says it keeps, and the tables hold their numbers."""

from __future__ import annotations

import importlib
import sqlite3
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

from genopt.backends.transformers import PARAMS

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def script(name: str) -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def overhead() -> ModuleType:
    return script("overhead")


def count(database: Path, table: str) -> int:
    with sqlite3.connect(database) as connection:
        found = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    connection.close()
    return int(found[0])


def test_every_observation_of_a_study_is_kept_and_counted(overhead: ModuleType, tmp_path: Path) -> None:
    marks = overhead.genopt_study(tmp_path, 90, 30)
    kept = count(tmp_path / "overhead.db", "genopt_generations")
    assert marks[-1].rows == kept == count(tmp_path / "overhead.db", "genopt_scores")
    confirm = 2 * overhead.HOLDOUT
    assert count(tmp_path / "overhead.db", "genopt_generations WHERE phase = 'confirm'") == confirm
    assert count(tmp_path / "overhead.db", "genopt_trial_rows") == 90
    again = marks[-1].rows - 90 - confirm
    assert 30 < again <= 3 * 30, "search, finalists and baseline, verdict"
    for before, after in pairwise(marks):
        assert after.rows > before.rows and after.cpu > before.cpu and after.wall > before.wall
    assert set(marks[-2].threads) == {"loop", "study", "writer"}


@pytest.mark.parametrize("each", [False, True])
def test_the_peer_keeps_as_much(overhead: ModuleType, tmp_path: Path, each: bool) -> None:
    marks = overhead.optuna_loop(tmp_path, 12, 6, each=each)
    assert [mark.rows for mark in marks] == [0, 6, 12]
    assert count(tmp_path / "plain.db", "trial_intermediate_values") == 12
    assert count(tmp_path / "plain.db", "trial_user_attributes") == (12 if each else 2)


def test_a_run_has_a_process_of_its_own(overhead: ModuleType) -> None:
    marks = overhead.fresh("bare loop", 200, 100)
    assert marks[-1].rows == 200 and overhead.rate(marks) > 1000


def test_figures_are_those_of_the_marks(overhead: ModuleType) -> None:
    def reading(rows: int, cpu: float) -> object:
        return overhead.Mark(rows, rows / 500, cpu, {"loop": cpu / 2, "study": cpu / 4, "writer": cpu / 4})

    few = [[reading(0, 0.0), reading(1000, 1.0), reading(10_000, 4.6), reading(100_000, 49.6), reading(100_001, 49.6)]]
    many = [[reading(0, 0.0), reading(1000, 1.0), reading(10_000, 2.8), reading(100_000, 20.8), reading(100_001, 20.8)]]
    assert overhead.decades(100_000) == [(1000, 10_000), (10_000, 100_000)]
    assert overhead.per_observation(few[0], 1000, 10_000) == pytest.approx(400)
    assert overhead.rate(few[0]) == pytest.approx(500)
    lines = list(overhead.long_table({100: few, 500: many}, 100_000))
    assert lines[2].split(" | ")[2:7] == ["500", "400", "500", "1.25", "245"]
    assert lines[-1].startswith("CPU = 127 us an observation + 36.4 ms a trial")
    names = {overhead.PLAIN: few, "genopt": many}
    assert list(overhead.peer_table(names))[3].split(" | ")[3] == "1"


@pytest.mark.real
def test_the_figure_is_drawn(overhead: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    marks = [overhead.Mark(rows, rows / 500, rows / 1000, {}) for rows in (0, 1000, 2000, 5000)]
    overhead.plot({100: [marks]}, {"genopt": [marks], overhead.PLAIN: [marks]}, tmp_path / "overhead.svg")
    assert "observations per second" in (tmp_path / "overhead.svg").read_text(encoding="utf-8")


def test_engine_and_peer_are_asked_for_the_same() -> None:
    embedded = script("embedded")
    full = [{**embedded.NEUTRAL, **configuration} for configuration in embedded.CONFIGURATIONS]
    assert len({tuple(sorted(one.items())) for one in full}) == 12
    assert all(PARAMS[name].coerce(value) == value for one in full for name, value in one.items())
    for ours, theirs in zip(full, map(embedded.theirs, embedded.CONFIGURATIONS), strict=True):
        assert theirs.pop("do_sample") == (ours["temperature"] > 0)
        assert {theirs.pop(name) for name in ("max_new_tokens", "min_new_tokens")} == {embedded.TOKENS}
        assert {**ours, "generation_seed": 1, "min_p": theirs.get("min_p", 0.0)}.items() >= {
            name: value for name, value in theirs.items() if ours["temperature"] > 0
        }.items()
    prompts = embedded.prompts()
    assert len(set(prompts)) == embedded.PROMPTS
    assert prompts[0].startswith("<|user|>Walk: Maple Circuit\nLength: 5 km")
    assert embedded.older('{"model": {"merges": [["a", "b"]]}}') == '{"model": {"merges": ["a b"]}}'


def test_workers_are_watched_from_when_all_of_them_search(tmp_path: Path) -> None:
    scale = script("scale")
    baseline = [at / 10 for at in range(scale.EXAMPLES)]  # the last one at 9.9

    def log(name: str, times: list[float]) -> None:
        (tmp_path / name).write_text("".join(f"{at}\n" for at in times), encoding="ascii")

    log("one", [*baseline[::2], 20.0])
    assert not scale.searching(tmp_path, 2), "the other has not begun"
    log("two", baseline[1::2])
    assert not scale.searching(tmp_path, 2), "the other measures the baseline still"
    log("two", [*baseline[1::2], 9.9 + 3.1 * scale.SERVICE])
    assert scale.searching(tmp_path, 2)


def test_workers_are_held_against_one_of_them_and_against_their_engines() -> None:
    scale = script("scale")
    engine = scale.PLACES / scale.SERVICE
    paces = [scale.Pace(1, round(9 * engine), 10.0, 3.0, 1.0), scale.Pace(4, round(32.4 * engine), 10.0, 12.0, 4.0)]
    assert scale.workers_table(paces)[2:] == [
        f"| 1 | {0.9 * engine:.1f} | 1.00 | 0.90 | 3 | 1 |",
        f"| 4 | {3.24 * engine:.1f} | 0.90 | 0.81 | 12 | 4 |",
    ]
