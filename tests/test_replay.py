"""The recorded benchmark: tables are what they say, the replay keeps an engine's contract, a whole study runs on it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="pyarrow is not installed")

from benchmarks.search import studies, warm
from benchmarks.search.intervals import mean, rate
from benchmarks.search.outcomes import append, read
from benchmarks.search.policies import PLAIN, optuna_tpe
from benchmarks.search.replay import Metric, Replay
from benchmarks.search.table import Table, load, names, save
from benchmarks.search.world import World
from genopt.errors import BackendError, SpecError
from genopt.space import SearchSpace
from genopt.study import open_study
from genopt.testing import BackendContract, Probe, ScorerContract, written
from genopt.types import Backend, BackendInfo, Example, Generation, Message, Request, Scorer

TABLES = names()


def request(info: BackendInfo, table: Table, seed: int, number: int, example: int = 0) -> Request:
    """What a study sends for a configuration of a table without prompt variables or switches."""
    params = {**info.defaults, **table.configurations[number]}
    return Request((Message("user", "{}"),), params, seed, table.examples[example])


class TestReplay(BackendContract):
    """An engine that answers what was recorded and nothing else: probes and lengths are those of the table."""

    length = 24
    prompt = "{}"
    probes: Mapping[str, Probe] = {
        "temperature": Probe(0.0, 1.5),
        "min_p": Probe(0.0, 0.2, {"temperature": 1.5}),
        "frequency_penalty": Probe(0.0, 0.6, {"temperature": 1.5, "max_tokens": 48}),
        "max_tokens": Probe(6, 24),
    }

    def backend(self) -> Backend:
        return Replay(model="similar")

    def request(
        self, info: BackendInfo, params: Mapping[str, Any] | None = None, *, seed: int = 1, prompt: str | None = None
    ) -> Request:
        made = super().request(info, params, seed=seed, prompt=prompt)
        return replace(made, example_id=load("similar").examples[1])

    def mixed_requests(self, info: BackendInfo, count: int) -> list[Request]:
        table = load("similar")
        return [request(info, table, n, n, n) for n in range(count)]

    def test_max_tokens_bounds_the_text(self) -> None:
        async def scenario(backend: Backend, info: BackendInfo) -> None:
            done = await backend.generate(self.request(info, {"temperature": 0.0, "max_tokens": 6}))
            assert done.finish == "length" and done.completion_tokens == 6 and done.prompt_tokens > 0

        self.run(scenario)


class TestMetric(ScorerContract):
    def scorer(self) -> Scorer:
        return Metric(name="facts", metric="right")

    def cases(self) -> list[tuple[Example, list[Generation]]]:
        texts = [json.dumps({"sample": n, "right": n / 4}) for n in range(4)]
        return [(Example("a", {}), [written(text) for text in texts])]


def test_a_scorer_reads_one_metric_and_says_what_it_cannot_read() -> None:
    scores = asyncio.run(Metric(name="a", metric="b").score(Example("x", {}), [written('{"b": 0.25}'), written("b")]))
    assert scores[0].value == 0.25
    assert scores[1].value is None and "no b was recorded" in scores[1].why


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_as_large_as_it_has_to_be(name: str) -> None:
    table = load(name)
    configurations, examples, samples = table.utility.shape
    assert configurations >= 100 and examples >= 100 and samples >= 8
    assert len({json.dumps(params, sort_keys=True) for params in table.configurations}) == configurations
    assert table.utility.min() >= 0 and table.utility.max() <= 1
    limits = np.array([params["max_tokens"] for params in table.configurations])
    assert (table.completion_tokens.max(axis=(1, 2)) <= limits).all() and table.completion_tokens.min() >= 0
    if table.pooled:
        assert np.ptp(table.truth) == 0, "equal in distribution"
    else:
        assert table.truth.max() > table.truth[table.baseline] + 0.01, "there is something to find"


def test_all_tables_together_are_small() -> None:
    folder = Path(studies.__file__).parent / "tables"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    about = {
        "name": "tiny",
        "metrics": ["a"],
        "objectives": [{"maximize": "a"}],
        "samples": 2,
        "pooled": False,
        "drawn": [1, 2],
        "examples": ["x", "y"],
        "configurations": [{"temperature": 0.0}, {"temperature": 1.0}],
        "baseline": {"temperature": 1.0},
    }
    rows = {"a": [0.1, 0.2, 0.3, 0.4, 0.5, 0.60004], "completion_tokens": range(6), "prompt_tokens": [9] * 6}
    path, _ = save(about, rows, tmp_path)  # type: ignore[arg-type]
    table = load(path.with_suffix(".json"))
    assert table.utility.tolist() == [[[0.1, 0.1], [0.2, 0.2]], [[0.3, 0.4], [0.5, 0.6]]]
    assert table.truth.tolist() == pytest.approx([0.15, 0.45]) and table.baseline == 1
    assert table.tokens[1].tolist() == [[11, 12], [13, 14]]
    save(about | {"drawn": [2, 2]}, rows, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="names 8 rows, its Parquet file has 6"):
        load(path.with_suffix(".json"))


def replayed(table: Table, number: int, seeds: int) -> list[float]:
    async def draw() -> list[float]:
        backend = Replay(model=table.name)
        info = await backend.open()
        texts = [(await backend.generate(request(info, table, seed, number))).text for seed in range(seeds)]
        await backend.aclose()
        return [json.loads(text)[next(iter(table.metrics))] for text in texts]

    return asyncio.run(draw())


def test_draws_are_fair_and_common_to_all_configurations() -> None:
    table = load("complete")
    metric = next(iter(table.metrics.values()))
    one, other = replayed(table, 20, 4000), replayed(table, 60, 4000)
    assert np.mean(one) == pytest.approx(metric[20, 0].mean(), abs=4 * 0.5 / 4000**0.5)
    places = [int(np.flatnonzero(metric[20, 0] == value)[0]) for value in one]
    assert len(set(places)) == len(set(metric[20, 0]))
    pairs = set(zip(one, other, strict=True))
    assert pairs <= set(zip(metric[20, 0], metric[60, 0], strict=True)), "the same sample of both"


def test_configurations_of_a_pooled_table_draw_apart() -> None:
    table = load("flat")
    one, other = replayed(table, 1, 300), replayed(table, 2, 300)
    assert one != other and sorted({*one}) == sorted({*other})
    assert abs(np.corrcoef(one, other)[0, 1]) < 4 / 300**0.5


def test_what_was_not_recorded_is_refused() -> None:
    async def ask(params: Mapping[str, Any], example: str) -> None:
        backend = Replay(model="mine", options={"table": "complete"})
        info = await backend.open()
        sent = {**info.defaults, **params}
        await backend.generate(Request((Message("user", "{}"),), sent, 1, example))

    known = load("complete").examples[0]
    asyncio.run(ask({}, known))
    with pytest.raises(BackendError, match="this configuration was not recorded"):
        asyncio.run(ask({"temperature": 0.41}, known))
    with pytest.raises(BackendError, match="example 'nobody' was not recorded"):
        asyncio.run(ask({}, "nobody"))
    with pytest.raises(SpecError, match="nowhere"):
        asyncio.run(Replay(model="x", options={"table": "nowhere"}).open())
    with pytest.raises(SpecError, match="Known: table"):
        Replay(model="x", options={"tabel": "complete"})


def test_a_whole_study_with_a_switch_and_a_prompt_variant_runs_on_a_table(tmp_path: Path) -> None:
    table = load("styles")
    budget = round(0.1 * table.utility.shape[0] * table.utility.shape[1])
    found = studies.one(table, 3, budget, tmp_path)
    assert 0 < found.calls <= budget
    assert table.truth[found.winner] > table.truth[table.baseline], "the table holds a gain of several points"
    assert abs(found.reported - table.truth[found.winner]) < 0.1
    append(tmp_path / "results.jsonl", table, studies.NAME, 0.1, 3, found)
    line = next(iter(read(tmp_path / "results.jsonl")))
    assert line["regret"] == pytest.approx(100 * (table.truth.max() - table.truth[found.winner]), abs=1e-3)


def test_a_study_of_the_new_half_begins_with_what_the_old_half_chose(tmp_path: Path) -> None:
    table = load("stories")
    old, new = warm.halves(table, 1)
    assert sorted([*old, *new]) == sorted(table.examples) and len(old) == len(new)
    losses = [100 * (table.truth.max() - truth) for truth in table.truth]
    known = tmp_path / "known.db"
    for name, examples, budget in (("earlier", old, 0.2), ("later", new, 0.05)):
        found = warm.regret(table, examples, budget, known, 1, name=name)
        assert min(abs(found - loss) for loss in losses) < 1e-9
    later = open_study(f"sqlite:///{known}", "later", SearchSpace({}), create=False)
    assert later.attribute("warm_start") == ["earlier"] * 3
    later.close()


def test_a_world_bills_what_is_new_and_shares_its_draws() -> None:
    table = load("complete")
    world = World(table, 5)
    first = world.ask(20, 0, 30)
    assert (world.calls, world.price(20, 0, 40), world.price(20, 0, 30, 1)) == (30, 10, 30)
    assert world.ask(20, 0, 30).tolist() == first.tolist() and world.calls == 30
    again = World(table, 5)
    assert again.ask(20, 0, 30).tolist() == first.tolist()
    rows = table.utility[20, world.order[:30]]
    assert all(value in row for value, row in zip(first, rows, strict=True))
    assert world.ask(20, 0, 30, 1).tolist() != first.tolist()


def test_policies_keep_to_their_budgets_and_the_full_grid_is_the_whole_one() -> None:
    table = load("complete")
    grid = World(table, 0).grid
    budgets = [round(share * grid) for share in (0.1, 0.2)]
    for name, policy in {**PLAIN, "TPE": optuna_tpe(examples=25)}.items():
        for budget, found in zip(budgets, policy(World(table, 1), budgets), strict=True):
            assert 0 < found.calls <= budget, name
            assert found.tokens >= found.calls, name
    whole = PLAIN["full grid / llmsearch"](World(table, 1), [grid])[0]
    assert whole.calls == grid
    scores = World(table, 1)
    means = [scores.ask(c, 0, scores.examples).mean() for c in range(scores.configurations)]
    assert whole.winner == int(np.argmax(means)) and whole.reported == max(means)


def test_the_naive_test_claims_falsely_far_more_often_than_its_level() -> None:
    table = load("flat")
    whole = PLAIN["full grid / llmsearch"]
    claims = sum(whole(World(table, seed), [World(table, seed).grid])[0].claimed for seed in range(40))
    assert rate(claims, 40).low > 0.05


def test_intervals_are_students_and_clopper_pearsons() -> None:
    from scipy.stats import binomtest, ttest_1samp

    values = [0.1, 0.4, 0.2, 0.9]
    found, known = mean(values), ttest_1samp(values, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((known.low, known.high))
    for hits in (0, 3, 20):
        exact = binomtest(hits, 20).proportion_ci(method="exact")
        assert (rate(hits, 20).low, rate(hits, 20).high) == pytest.approx((exact.low, exact.high))


def test_the_tokens_to_a_quality_lie_between_the_budgets_around_it(tmp_path: Path) -> None:
    from benchmarks.search.report import crossing, curves, summary

    lines = [
        {"table": "t", "policy": "p", "budget": share, "seed": seed, "regret": regret + seed, "optimism": 0.0}
        | {"share": share, "tokens": 1000 * share, "claimed": False}
        for share, regret in ((0.1, 4.0), (0.3, 2.0), (1.0, 0.0))
        for seed in (-1, 1)
    ]
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, lines[0]]), encoding="utf-8")
    at = curves(path)["t", "p"]
    assert [len(found) for found in at.values()] == [2, 2, 2], "a study that stands twice counts once"
    assert crossing(at, 3.0) == (pytest.approx(200), pytest.approx(0.2), False)
    assert crossing(at, 5.0) == (pytest.approx(100), pytest.approx(0.1), True)
    assert crossing(at, -0.1) is None
    assert list(summary(curves(path), 0.3))[2].startswith("| p (2) | 2.00 ±12.71 / 0.00 ±0.00 |")
