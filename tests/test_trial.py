"""One observation: common random numbers, fresh replicates, retries, failed texts, stored rows and metrics."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from genopt.errors import BackendError, ScorerError
from genopt.measures import measured
from genopt.meter import Meter
from genopt.objectives import Constraint, Goal, Objective
from genopt.prompt import Prompt
from genopt.tables import FAILED, Row, generation_id
from genopt.trial import Configuration, Evaluation, Observation, Observer, mean_of, seed_of
from genopt.types import BackendInfo, Example, Generation, Need, Request, Score

EXAMPLES = [Example(f"r{i}", {"question": f"Is {i}?"}, ("yes",)) for i in range(6)]


def config(key: str = "k1", *, deterministic: bool = False, shots: int = 0) -> Configuration:
    return Configuration({"temperature": 0.5}, {"temperature": 0.5}, {}, shots, key, deterministic)


@dataclass
class Engine:
    """Writes its seed; `errors` are raised first, one a call; `finish` by sample."""

    errors: list[BackendError] = field(default_factory=list)
    finish: Mapping[int, Any] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    now: int = 0
    most: int = 0

    async def open(self) -> BackendInfo:
        raise NotImplementedError

    async def generate(self, request: Request) -> Generation:
        self.requests.append(request)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        if self.errors:
            raise self.errors.pop(0)
        finish = self.finish.get(request.sample, "stop")
        return Generation(f"text of {request.seed}", finish, 10, 4, 0.5, why="too long" if finish == "error" else "")

    async def aclose(self) -> None:
        pass


@dataclass
class Recorder:
    """A scorer that remembers what it was shown; `values` by sample index within a call."""

    name: str = "right"
    needs: frozenset[Need] = frozenset()
    value: float | None = 1.0
    calls: list[tuple[str, list[str]]] = field(default_factory=list)
    fails: Exception | None = None
    extra: int = 0

    async def score(self, example: Example, generations: Sequence[Generation]) -> list[Score]:
        self.calls.append((example.id, [generation.text for generation in generations]))
        if self.fails:
            raise self.fails
        return [Score(self.value)] * (len(generations) + self.extra)

    async def aclose(self) -> None:
        pass


@dataclass
class Rows:
    """Where rows go."""

    added: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    def add(self, table: str, row: Mapping[str, Any]) -> None:
        self.added.append((table, row))

    def of(self, table: str) -> list[Mapping[str, Any]]:
        return [row for name, row in self.added if name == table]


@dataclass
class Bench:
    """An observer with everything it needs, and what it slept."""

    engine: Engine = field(default_factory=Engine)
    scorer: Recorder = field(default_factory=Recorder)
    repeats: int = 1
    slots: int = 100
    rows: Rows = field(default_factory=Rows)
    meter: Meter = field(default_factory=Meter)
    slept: list[float] = field(default_factory=list)
    memory: dict[tuple[str, int], Row] = field(default_factory=dict)
    others: list[Recorder] = field(default_factory=list)
    ticks: int = 0
    goal: Goal = field(default_factory=lambda: Goal((Objective("right", "maximize"),)))

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def tick(self) -> None:
        self.ticks += 1

    def observer(self) -> Observer:
        scorers = {scorer.name: scorer for scorer in [self.scorer, *self.others]}
        observer = Observer(
            study_id=1, seed=7, repeats=self.repeats, backend=self.engine,
            prompt=Prompt.from_parts(system=None, user="{{ question }}", messages=None), pool=EXAMPLES[1:],
            scorers=scorers, scorer_keys={name: "key of " + name for name in scorers},
            goal=self.goal, writer=self.rows, meter=self.meter,
            slots=asyncio.Semaphore(self.slots), on_generation=self.tick,
        )  # fmt: skip
        observer.asker.sleep = self.sleep
        return observer

    def observe(
        self, *, example: int = 0, replicate: int = 0, phase: Any = "tune", trial: int | None = None,
        of: Configuration | None = None, fresh: bool = False,
    ) -> Observation:  # fmt: skip
        async def work() -> Observation:
            observer = self.observer()
            memory = {} if fresh else self.memory
            return await observer.observe(of or config(), memory, EXAMPLES[example], replicate, phase, trial)

        return asyncio.run(work())


# --- seeds


def test_seeds_are_common_to_all_configurations() -> None:
    first, second = Bench(), Bench()
    first.observe(of=config("k1"))
    second.observe(of=config("k2"))
    assert first.engine.requests[0].seed == second.engine.requests[0].seed == seed_of(7, "r0", 0, "tune")


def test_seeds_differ_by_study_example_sample_and_phase_and_fit_in_31_bits() -> None:
    seeds = {
        seed_of(study, f"r{example}", sample, phase)
        for study in range(3)
        for example in range(200)
        for sample in range(4)
        for phase in ("tune", "confirm")  # type: ignore[misc]
    }
    assert len(seeds) > 3 * 200 * 4 * 2 - 5  # 31 bits: a collision among 4800 is rare
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seed_of(1, "r1", 11, "tune") != seed_of(1, "r11", 1, "tune")


def test_the_phases_draw_different_numbers() -> None:
    bench = Bench()
    bench.observe(fresh=True)
    bench.observe(fresh=True, phase="confirm")
    tune, confirm = bench.engine.requests
    assert tune.seed != confirm.seed
    assert (tune.phase, confirm.phase) == ("tune", "confirm")
    assert (bench.meter.search_generations, bench.meter.confirm_generations) == (1, 1)


# --- samples and replicates


def test_repeats_are_samples_and_a_replicate_takes_fresh_ones() -> None:
    bench = Bench(repeats=3)
    bench.observe()
    bench.observe(replicate=1)
    assert [request.sample for request in bench.engine.requests] == [0, 1, 2, 3, 4, 5]
    assert len({request.seed for request in bench.engine.requests}) == 6
    assert all(request.messages[-1].content == "Is 0?" for request in bench.engine.requests)


def test_a_deterministic_configuration_is_generated_once() -> None:
    bench = Bench(repeats=3)
    first = bench.observe(of=config(deterministic=True))
    again = bench.observe(of=config(deterministic=True), replicate=2)
    assert [request.sample for request in bench.engine.requests] == [0]
    assert first == again
    assert first.metrics["completion_tokens"] == 4
    assert len(bench.scorer.calls) == 1


def test_a_scorer_of_repeats_sees_all_samples_even_when_they_are_one() -> None:
    for deterministic in (False, True):
        scorer = Recorder(needs=frozenset({"repeats"}))
        bench = Bench(scorer=scorer, repeats=3)
        bench.observe(of=config(deterministic=deterministic))
        ((_, texts),) = scorer.calls
        assert len(texts) == 3
        assert len(set(texts)) == (1 if deterministic else 3)


def test_requests_in_flight_are_bounded_by_the_slots() -> None:
    bench = Bench(repeats=8, slots=2)
    bench.observe()
    assert bench.engine.most == 2
    assert bench.ticks == len(bench.engine.requests) == 8


# --- what is stored


def test_rows_links_and_scores_are_added() -> None:
    bench = Bench(repeats=2)
    bench.observe(trial=5)
    ids = [generation_id(1, "k1", "r0", sample, "tune") for sample in (0, 1)]
    assert [row["id"] for row in bench.rows.of("genopt_generations")] == ids
    assert [row["seed"] for row in bench.rows.of("genopt_generations")] == [r.seed for r in bench.engine.requests]
    assert bench.rows.of("genopt_trial_rows") == [{"trial_id": 5, "generation_id": i} for i in ids]
    assert [(row["generation_id"], row["scorer_key"], row["value"]) for row in bench.rows.of("genopt_scores")] == [
        (i, "key of right", 1.0) for i in ids
    ]
    assert bench.meter.tokens == 28


def test_a_generation_is_stored_before_it_is_scored() -> None:
    bench = Bench(scorer=Recorder(fails=ScorerError("the judge is away")))
    with pytest.raises(ScorerError):
        bench.observe()
    assert len(bench.rows.of("genopt_generations")) == 1
    assert bench.rows.of("genopt_scores") == []


def test_what_is_stored_is_neither_generated_nor_scored_again() -> None:
    bench = Bench(repeats=2)
    before = bench.observe()
    rows = len(bench.rows.added)
    after = bench.observe(trial=9)
    assert after == before
    assert len(bench.engine.requests) == 2
    assert len(bench.scorer.calls) == 1
    assert [table for table, _ in bench.rows.added[rows:]] == ["genopt_trial_rows"] * 2
    assert bench.meter.generations == 2


def test_stored_texts_are_scored_by_a_new_scorer_without_generating() -> None:
    bench = Bench()
    bench.observe()
    bench.others.append(Recorder("similar", value=0.25))
    found = bench.observe()
    assert found.metrics["similar"] == 0.25
    assert len(bench.engine.requests) == 1
    assert len(bench.scorer.calls) == 1
    assert bench.others[0].calls == [("r0", [f"text of {bench.engine.requests[0].seed}"])]


def test_the_missing_sample_of_an_observation_is_the_only_one_made() -> None:
    bench = Bench(repeats=3)
    bench.memory[("r0", 1)] = Row(99, "r0", 1, Generation("stored", "stop", 1, 1, 0.1), {"key of right": Score(0.0)})
    found = bench.observe()
    assert sorted(request.sample for request in bench.engine.requests) == [0, 2]
    ((_, texts),) = bench.scorer.calls
    assert "stored" not in texts
    assert found.metrics["right"] == 2 / 3
    assert 99 not in {row["generation_id"] for row in bench.rows.of("genopt_scores")}


# --- failures


def test_a_failed_generation_scores_lowest_and_is_not_shown_to_the_scorer() -> None:
    bench = Bench(engine=Engine(finish={1: "error", 2: "degenerate"}), repeats=4)
    found = bench.observe()
    ((_, texts),) = bench.scorer.calls
    assert len(texts) == 2
    assert found.metrics["right"] == 0.5
    stored = {row["generation_id"]: (row["value"], row["why"]) for row in bench.rows.of("genopt_scores")}
    ids = [generation_id(1, "k1", "r0", sample, "tune") for sample in range(4)]
    assert [stored[i] for i in ids] == [(1.0, ""), (0.0, "too long"), (0.0, "degenerate"), (1.0, "")]


def test_a_scorer_is_not_called_when_every_text_failed() -> None:
    bench = Bench(engine=Engine(finish={0: "error"}))
    assert bench.observe().utility == 0.0
    assert bench.scorer.calls == []


def test_failing_is_never_the_way_to_score_low_or_to_be_short() -> None:
    """Where less is better, a text that was never written counts as the worst score, and its size as unknown."""
    bench = Bench(engine=Engine(finish={0: "error"}), repeats=2)
    bench.scorer.value = 0.25
    for goal, utility in (
        (Goal((Objective("right", "minimize"),)), -0.625),
        (Goal((Objective("right", "maximize"),), (Constraint("right", at_most=0.5),)), 0.125),
        (Goal((Objective("completion_tokens", "minimize"),)), math.nan),
        (Goal((Objective("right", "maximize", 1.0), Objective("words", "minimize", 0.01))), math.nan),
    ):
        bench.goal = goal
        assert bench.observe().utility == pytest.approx(utility, nan_ok=True)
    assert measured([Generation("a b", "degenerate", 10, 4, 0.5)])["completion_tokens"] == 4


def test_a_busy_engine_is_asked_again_with_growing_pauses() -> None:
    bench = Bench(engine=Engine(errors=[BackendError("busy", retryable=True) for _ in range(3)]))
    assert bench.observe().utility == 1.0
    assert len(bench.engine.requests) == 4
    assert bench.slept == sorted(bench.slept)
    assert len(set(bench.slept)) == 3
    assert len({request.seed for request in bench.engine.requests}) == 1
    assert (bench.meter.made, bench.meter.failed, bench.meter.generations) == (1, 3, 4)


def test_an_engine_that_stays_busy_fails_the_observation() -> None:
    bench = Bench(engine=Engine(errors=[BackendError(f"busy {i}", retryable=True) for i in range(9)]))
    with pytest.raises(BackendError, match="busy 3"):
        bench.observe()
    assert len(bench.slept) == 3
    assert bench.rows.added == [(FAILED, {})] * 4, "nothing but that it was asked four times"


def test_a_final_error_is_not_tried_again() -> None:
    bench = Bench(engine=Engine(errors=[BackendError("no such model")]))
    with pytest.raises(BackendError, match="no such model"):
        bench.observe()
    assert bench.slept == []
    assert len(bench.engine.requests) == 1


def test_an_error_that_ends_many_requests_names_the_row_of_the_first() -> None:
    error = BackendError("there is no engine any more", hint="start it")
    bench = Bench(engine=Engine(errors=[error, error]))
    for example in range(2):
        with pytest.raises(BackendError):
            bench.observe(example=example)
    assert error.hint == (
        "start it; it was asked about the row 'r0'; where that alone is to blame, leave it out (a study that has begun"
        " goes on with --fork NEW_NAME)"
    )


def test_a_scorers_own_exception_names_scorer_and_example() -> None:
    with pytest.raises(ScorerError, match=r"'right' failed on example 'r0': ZeroDivisionError"):
        Bench(scorer=Recorder(fails=ZeroDivisionError("x"))).observe()


def test_a_scorer_must_give_one_score_for_each() -> None:
    with pytest.raises(ScorerError, match="gave 2 scores for 1"):
        Bench(scorer=Recorder(extra=1)).observe()


@pytest.mark.parametrize("value", [None, math.nan])
def test_what_could_not_be_scored_is_missing_and_not_zero(value: float | None) -> None:
    found = Bench(scorer=Recorder(value=value)).observe()
    assert math.isnan(found.utility)
    assert math.isnan(found.metrics["right"])


# --- few-shot


def test_shots_are_shown_and_never_the_example_itself() -> None:
    bench = Bench()
    bench.observe(example=1, of=config(shots=3))
    texts = [message.content for message in bench.engine.requests[0].messages]
    assert texts[-1] == "Is 1?"
    assert len(texts) == 7
    assert texts.count("Is 1?") == 1


# --- metrics and evaluations


def test_measured_quantities_are_means_over_samples() -> None:
    texts = [Generation("one two", "stop", 10, 2, 1.0), Generation("three", "stop", 12, 1, 2.0)]
    assert measured(texts) == {
        "completion_tokens": 1.5,
        "prompt_tokens": 11.0,
        "seconds": 1.5,
        "characters": 6.0,
        "words": 1.5,
    }


def test_times_of_the_first_token_are_told_where_every_sample_has_one() -> None:
    texts = [
        Generation("one two", "stop", 10, 20, 1.5, first_token_seconds=0.5),
        Generation("three", "stop", 12, 10, 2.5, first_token_seconds=0.5),
    ]
    found = measured(texts)
    assert (found["first_token_seconds"], found["tokens_per_second"]) == (0.5, 10.0)
    assert "first_token_seconds" not in measured([*texts, Generation("four", "stop", 10, 2, 1.0)])


def cell(value: float) -> Observation:
    return Observation({"right": value, "words": 10 * value}, value)


def test_an_evaluation_averages_replicates_first_and_skips_what_is_missing() -> None:
    evaluation = Evaluation(config(), EXAMPLES[:4])
    evaluation.cells = {
        (0, 0): cell(1.0),
        (0, 1): cell(0.0),
        (1, 0): cell(math.nan),
        (1, 1): cell(0.25),
        (2, 0): cell(math.nan),
    }
    np.testing.assert_equal(evaluation.utility(), [0.5, 0.25, math.nan, math.nan])
    np.testing.assert_equal(evaluation.utility(1), [0.5])
    np.testing.assert_equal(evaluation.metric("words"), [5.0, 2.5, math.nan, math.nan])
    assert evaluation.means() == {"right": 0.375, "words": 3.75}
    assert evaluation.missing() == pytest.approx(2 / 5)


def test_an_empty_evaluation_knows_nothing() -> None:
    evaluation = Evaluation(config(), EXAMPLES[:2])
    assert np.isnan(evaluation.utility()).all()
    assert evaluation.means() == {}
    assert evaluation.missing() == 0.0
    assert math.isnan(mean_of(evaluation.utility()))
