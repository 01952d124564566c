"""From a specification to its parts: what is sent, what is the same, what is refused, and what is closed again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genopt import pace
from genopt.checks import Fields
from genopt.errors import BackendError, SpecError, StudyError
from genopt.plan import DEFAULT_TRIALS, Plan
from genopt.prepare import prepare
from genopt.space import Number
from genopt.spec.read import make_study
from genopt.types import BackendInfo, Example, Generation, Score
from tests import toy
from tests.toy import DEFAULTS, PARAMETERS, ToyBackend, rows

CLOSED: list[str] = []  # emptied by every test


@pytest.fixture(autouse=True)
def forget() -> None:
    CLOSED.clear()


class Noted(ToyBackend):
    """Notes that it was closed; options `refuses` (opening fails) and `default` (values of today)."""

    async def open(self) -> BackendInfo:
        if self.options.get("refuses"):
            raise BackendError("no such model")
        info = await super().open()
        return replace(info, defaults={**info.defaults, **self.options.get("default", {})}, vocabulary=500)

    async def aclose(self) -> None:
        await super().aclose()
        CLOSED.append("backend")


class Judge:
    """A scorer that notes that it was closed."""

    needs: frozenset[str] = frozenset()

    def __init__(self, *, name: str) -> None:
        self.name = name

    async def score(self, example: Example, generations: list[Generation]) -> list[Score]:
        return [Score(1.0) for _ in generations]

    async def aclose(self) -> None:
        CLOSED.append(self.name)


def open_plan(folder: Path, **changes: Any) -> Plan:
    return asyncio.run(prepare(make_study(toy.study(folder, **changes), folder=folder)))


def refused(folder: Path, **changes: Any) -> list[str]:
    with pytest.raises(SpecError) as error:
        open_plan(folder, **changes)
    assert all(line.startswith("StudySpec: ") for line in error.value.problems)
    return [line.removeprefix("StudySpec: ") for line in error.value.problems]


def engine(**options: Any) -> dict[str, Any]:
    return {"kind": "tests.test_plan:Noted", "model": "toy", "options": options}


# --- configurations


def test_the_baseline_is_what_the_engine_does_today(tmp_path: Path) -> None:
    plan = open_plan(tmp_path)
    assert plan.baseline().request == DEFAULTS
    assert plan.baseline().params == DEFAULTS


def test_the_baseline_table_goes_over_the_engines_defaults(tmp_path: Path) -> None:
    plan = open_plan(tmp_path, baseline={"decoding": "sampling", "temperature": 1, "top_p": 0.5})
    assert plan.baseline().request == {**DEFAULTS, "temperature": 1.0, "top_p": 0.5}
    assert type(plan.baseline().request["temperature"]) is float
    assert "decoding" not in plan.baseline().request


def test_a_branch_that_the_baseline_names_brings_its_constants(tmp_path: Path) -> None:
    greedy = open_plan(tmp_path, baseline={"decoding": "greedy"}).baseline()
    assert greedy.request == {**DEFAULTS, "temperature": 0.0}
    assert greedy.deterministic
    own = open_plan(tmp_path, baseline={"decoding": "greedy", "temperature": 0.5}).baseline()
    assert own.request["temperature"] == 0.5


def test_every_parameter_is_sent_explicitly(tmp_path: Path) -> None:
    plan = open_plan(tmp_path)
    chosen = plan.configure({"decoding": "sampling", "temperature": 0.5, "top_p": 0.75})
    assert chosen.request == {**DEFAULTS, "temperature": 0.5, "top_p": 0.75}
    assert chosen.params == {**DEFAULTS, "temperature": 0.5, "top_p": 0.75, "decoding": "sampling"}
    assert not chosen.deterministic
    assert plan.configure({"decoding": "greedy", "temperature": 0.0, "top_p": 0.75}).deterministic


def test_equal_configurations_share_a_key(tmp_path: Path) -> None:
    plan = open_plan(tmp_path)
    greedy = [plan.configure({"decoding": "greedy", "temperature": 0.0, "top_p": top_p}).key for top_p in (0.5, 0.9)]
    assert greedy[0] == greedy[1]
    other = plan.configure({"decoding": "sampling", "temperature": 0.5, "top_p": 0.9})
    assert other.key not in greedy
    assert plan.configure({"decoding": "renamed", "temperature": 0.5, "top_p": 0.9}).key == other.key
    assert plan.over_baseline({"temperature": 0.5, "top_p": 0.9}).key == other.key
    assert plan.over_baseline({}).key == plan.baseline().key


def test_a_default_of_another_type_makes_no_other_configuration(tmp_path: Path) -> None:
    plan = open_plan(tmp_path, backend=engine(default={"temperature": 1, "top_k": 0.0}))
    same = plan.configure({"decoding": "sampling", "temperature": 1.0, "top_p": 1.0})
    assert plan.baseline().key == same.key
    assert plan.baseline().request == same.request


def test_the_vocabulary_bounds_top_k(tmp_path: Path) -> None:
    plan = open_plan(tmp_path, backend=engine())
    assert plan.over_baseline({"top_k": 500}).key == plan.baseline().key
    assert plan.over_baseline({"top_k": 499}).key != plan.baseline().key
    assert plan.over_baseline({"top_k": 500}).request["top_k"] == 500


def test_over_baseline_checks_its_values(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="outside"):
        open_plan(tmp_path).over_baseline({"temperature": 9.0})


def test_prompt_variables_are_part_of_the_configuration_and_not_of_the_request(tmp_path: Path) -> None:
    plan = open_plan(
        tmp_path,
        prompt={"system": "Answer. {{ style }}", "user": "{{ question }}"},
        space={"style": {"choices": ["", "Be brief."]}, "temperature": {"low": 0.1, "high": 1.0}},
    )
    assert plan.names == {"style"}
    assert plan.baseline().variables == {"style": ""}
    chosen = plan.configure({"style": "Be brief.", "temperature": 0.5})
    assert chosen.variables == {"style": "Be brief."}
    assert "style" not in chosen.request
    assert chosen.key != plan.configure({"style": "", "temperature": 0.5}).key
    (system, _) = plan.prompt.render(plan.tune[0], chosen.variables)
    assert system.content == "Answer. Be brief."


def test_prompts_in_files_are_searched_by_their_texts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Short: {{ question }}")
    (tmp_path / "b.txt").write_text("Long: {{ question }}")
    space = {"user": {"files": ["a.txt", "b.txt"]}, "temperature": {"low": 0.1, "high": 1.0}}
    plan = open_plan(tmp_path, prompt={"user": {"file": "a.txt"}}, space=space)
    texts = {name: (tmp_path / name).read_text() for name in ("a.txt", "b.txt")}
    first, second = (plan.configure({"user": text, "temperature": 0.5}) for text in texts.values())
    assert first.key != second.key
    (message,) = plan.prompt.render(plan.tune[0], second.variables)
    assert message.content == f"Long: {plan.tune[0].fields['question']}"


# --- few-shot


def test_a_branch_may_bring_a_system_prompt_with_variables_of_its_own(tmp_path: Path) -> None:
    mode: dict[str, Any] = {"short": {"system": "Be {{ way }}."}}
    mode["asked"] = {"system": {"choices": ["{{ question }}", "{{ quesion }}"]}}
    way = {"choices": ["brief", "quick"]}
    assert refused(tmp_path, space={"way": way, "mode": mode}) == [
        'prompt: choice 3 of space.system uses "quesion", which is neither a field of the rows nor a variable of the'
        ' space. Did you mean "question"? The rows have id, question, answer'
    ]
    mode["asked"] = {"system": "{{ question }}"}
    plan = open_plan(tmp_path, space={"way": way, "mode": mode})
    config = plan.configure({"way": "quick", "mode": "short", "system": "Be {{ way }}."})
    assert plan.prompt.render(plan.tune[0], config.variables)[0].content == "Be quick."


def test_shots_come_from_the_tune_split_and_their_pool_is_part_of_the_key(tmp_path: Path) -> None:
    space = {"shots": {"choices": [0, 2]}, "temperature": {"low": 0.1, "high": 1.0}}
    plan = open_plan(tmp_path, space=space)
    none, two = (plan.configure({"shots": shots, "temperature": 0.5}) for shots in (0, 2))
    assert (none.shots, two.shots) == (0, 2)
    assert none.key != two.key
    assert "shots" not in two.request
    other = open_plan(tmp_path, space=space, dataset={"rows": rows(61), "holdout": 0.4})
    assert other.configure({"shots": 0, "temperature": 0.5}).key == none.key
    assert other.configure({"shots": 2, "temperature": 0.5}).key != two.key


def test_the_prompts_own_shots_are_todays(tmp_path: Path) -> None:
    space = {"temperature": {"low": 0.1, "high": 1.0}}
    plan = open_plan(tmp_path, prompt={"user": "{{ question }}", "shots": 3}, space=space)
    assert plan.baseline().shots == 3
    assert plan.configure({"temperature": 0.5}).shots == 3
    bare = open_plan(tmp_path, space=space)
    assert bare.configure({"temperature": 0.5}).key != plan.configure({"temperature": 0.5}).key


# --- what a study is made of


def test_without_a_space_the_engines_ranges_are_searched(tmp_path: Path) -> None:
    plan = open_plan(tmp_path, space={})
    assert plan.space.dimensions == {"temperature": Number(0.1, 1.5), "top_p": Number(0.5, 1.0)}


def test_the_split_is_seeded_disjoint_and_whole(tmp_path: Path) -> None:
    plan = open_plan(tmp_path)
    tune, holdout = ({example.id for example in part} for part in (plan.tune, plan.holdout))
    assert not tune & holdout
    assert tune | holdout == {f"r{i}" for i in range(60)}
    assert (len(tune), len(holdout)) == (36, 24)
    assert {example.id for example, _, side in plan.digested() if side == "holdout"} == holdout
    assert [e.id for e in open_plan(tmp_path, seed=2).tune] != [e.id for e in plan.tune]


def test_the_bill(tmp_path: Path) -> None:
    plan = open_plan(tmp_path, search={"sampler": "random", "repeats": 2, "finalists": 3, "replicates": 2,
                                       "confirm_repeats": 4}, budget={"trials": 10})  # fmt: skip
    bill = plan.bill()
    assert bill.search == 10 * 36 * 2
    assert bill.finalists == 36 * 2 * 2 * (3 + 1)
    assert bill.confirm == 2 * 24 * 2 * 4
    assert bill.total == bill.search + bill.reserve


@pytest.mark.parametrize(
    ("budget", "trials"), [({}, DEFAULT_TRIALS), ({"trials": 5}, 5), ({"hours": 1.0}, None), ({"tokens": 5}, None)]
)
def test_the_budget_in_trials(tmp_path: Path, budget: dict[str, Any], trials: int | None) -> None:
    assert open_plan(tmp_path, budget=budget).trials == trials


def test_concurrency_is_the_engines_unless_named(tmp_path: Path) -> None:
    assert open_plan(tmp_path).concurrency == 16
    named = {"kind": "tests.toy:ToyBackend", "model": "toy", "concurrency": 3}
    assert open_plan(tmp_path, backend=named).concurrency == 3


@pytest.mark.parametrize(
    ("slots", "free", "budget", "search", "found"),
    [
        (1, True, {"trials": 60}, {}, (1, 1)),
        (3, True, {"trials": 60}, {}, (3, 3)),
        (32, True, {"trials": 60}, {}, (4, 4)),  # four first looks fill it
        (64, True, {"trials": 60}, {}, (8, 8)),  # eight do
        (64, True, {"trials": 30}, {}, (5, 15)),  # a sixth of them, and half of them where there is room beside
        (64, False, {"trials": 30}, {}, (5, 5)),
        (64, False, {"hours": 1.0}, {}, (8, 8)),
        (64, False, {"trials": 30}, {"pruner": "none"}, (4, 4)),  # each asks for all its examples at once
        (640, True, {"trials": 60}, {}, (10, 30)),
        (640, False, {"trials": 60}, {}, (10, 10)),
        (640, True, {"trials": 6}, {}, (4, 4)),
        (640, True, {"trials": 500}, {}, (64, 64)),
        (640, False, {"generations": 2000}, {}, (4, 22)),  # 65 % of 2,000 less 64, for trials of 8 to 48
        (640, True, {"hours": 1.0}, {}, (10, 32)),
        (640, True, {"trials": 60}, {"trials_in_flight": 1}, (1, 1)),
        (640, True, {"trials": 60}, {"trials_in_flight": 9}, (9, 9)),
    ],
)
def test_a_few_trials_are_in_flight_and_more_where_slots_are_free_and_cost_nothing(
    tmp_path: Path, slots: int, free: bool, budget: dict[str, Any], search: dict[str, Any], found: tuple[int, int]
) -> None:
    engine = {"kind": "tests.toy:ToyBackend", "model": "toy", "concurrency": slots, "options": {"idle_is_free": free}}
    plan = open_plan(tmp_path, count=80, budget=budget, backend=engine, search={"sampler": "random", **search})
    assert (pace.few(plan), pace.most(plan)) == found


@pytest.mark.parametrize(
    ("free", "changes", "found"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"budget": {"generations": 2000}}, False),  # they are what is counted
        (True, {"budget": {"tokens": 20000}}, False),
        (False, {"search": {"sampler": "random", "pruner": "none"}}, True),  # there is no decision to be ahead of
    ],
)
def test_examples_are_asked_for_ahead_of_a_decision_where_that_costs_nothing(
    tmp_path: Path, free: bool, changes: dict[str, Any], found: bool
) -> None:
    engine = {"kind": "tests.toy:ToyBackend", "model": "toy", "options": {"idle_is_free": free}}
    assert pace.ahead(open_plan(tmp_path, **{"backend": engine, "search": {"sampler": "random"}, **changes})) == found


# --- the description: what must not change while a study goes on


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"seed": 2}, {"seed"}),
        ({"dataset": {"rows": rows(61), "holdout": 0.4}}, {"dataset"}),
        ({"dataset": {"rows": rows(60), "holdout": 0.5}}, {"dataset.holdout"}),
        ({"prompt": {"user": "Q: {{ question }}"}}, {"prompt"}),
        ({"prompt": {"user": "{{ question }}", "shots": 1}}, {"prompt"}),
        ({"backend": {"kind": "tests.toy:ToyBackend", "model": "other"}}, {"backend"}),
        ({"space": {"temperature": {"low": 0.1, "high": 1.0}}}, {"space"}),
        ({"baseline": {"temperature": 0.5}}, {"baseline"}),
        ({"scorers": {"right": {"kind": "exact_match", "normalize": False}}}, {"scorers"}),
        ({"objectives": [{"minimize": "right"}]}, {"objectives"}),
        ({"constraints": [{"metric": "words", "at_most": 9.0}]}, {"constraints"}),
        ({"search": {"sampler": "random", "pruner": "none", "repeats": 2}}, {"search.repeats", "scorers"}),
        ({"budget": {"trials": 7}}, set()),
        ({"search": {"sampler": "tpe", "trials_in_flight": 2, "finalists": 2}}, set()),
        ({"backend": {"kind": "tests.toy:ToyBackend", "model": "toy", "concurrency": 2}}, set()),
    ],
)
def test_the_description_changes_when_results_would(tmp_path: Path, changes: dict[str, Any], keys: set[str]) -> None:
    before, after = open_plan(tmp_path).description(), open_plan(tmp_path, **changes).description()
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert changed <= keys
    assert bool(changed) == bool(keys)


def test_both_bounds_of_a_constraint_are_described(tmp_path: Path) -> None:
    one, two = (
        open_plan(tmp_path, constraints=[{"metric": "words", "at_least": 1.0, "at_most": most}]).description()
        for most in (8.0, 9.0)
    )
    assert one["constraints"] != two["constraints"]


# --- what is refused before anything is spent


@pytest.mark.parametrize(
    ("changes", "key", "says"),
    [
        ({"space": {"temprature": {"low": 0.1, "high": 1.0}}}, "space.temprature", "Did you mean 'temperature'?"),
        ({"space": {"temperature": {"low": 0.1, "high": 3.0}}}, "space.temperature", "[0, 2]"),
        ({"space": {"temperature": {"low": 0, "high": 1}}}, "space.temperature", "integers"),
        ({"space": {"top_k": {"low": 1.0, "high": 9.0}}}, "space.top_k", "whole numbers"),
        ({"space": {"temperature": {"choices": ["hot", "cold"]}}}, "space.temperature", "'hot'"),
        ({"space": {"temperature": 0.5}}, "space", "nothing to search"),
        ({"space": {"top_p": {"a": {"temperature": 0.1}, "b": {"temperature": 0.2}}}}, "space.top_p", "switch"),
        ({"baseline": {"temprature": 0.1}}, "baseline.temprature", "Did you mean 'temperature'?"),
        ({"baseline": {"temperature": 5.0}}, "baseline.temperature", "[0, 2]"),
        ({"baseline": {"decoding": "samplin"}}, "baseline.decoding", "Did you mean 'sampling'?"),
        ({"prompt": {"user": "{{ qestion }}"}}, "prompt", "qestion"),
        ({"dataset": {"rows": rows(12), "holdout": 0.4}}, "dataset.holdout", "each side needs 8"),
        ({"dataset": {"rows": [{"question": f"{i}"} for i in range(60)]}}, "", "right"),
        ({"scorers": {"right": {"kind": "diversity"}}}, "scorers.right", "search.repeats = 2"),
        ({"budget": {"generations": 10}}, "budget.generations", "too few"),
        ({"backend": {"kind": "olama", "model": "m"}}, "backend.kind", "olama"),
        ({"scorers": {"right": {"kind": "nowhere:x"}}}, "scorers.right", "nowhere"),
        ({"prompt": {"user": {"file": "none.txt"}}}, "", "none.txt"),
    ],
)
def test_a_mistake_is_found_before_anything_is_spent(
    tmp_path: Path, changes: dict[str, Any], key: str, says: str
) -> None:
    lines = [line for line in refused(tmp_path, **changes) if line.startswith(key) and says in line]
    assert len(lines) == 1, refused(tmp_path, **changes)


def test_mistakes_of_every_part_are_told_together(tmp_path: Path) -> None:
    found = refused(
        tmp_path,
        dataset={"path": "none.jsonl"},
        backend={"kind": "olama", "model": "m"},
        scorers={"right": {"kind": "diversity"}},
        prompt={"user": {"file": "none.txt"}},
    )
    assert len(found) == 4


def test_mistakes_that_only_the_open_engine_shows_are_told_together(tmp_path: Path) -> None:
    found = refused(
        tmp_path,
        space={"temprature": {"low": 0.1, "high": 1.0}, "top_k": {"low": 0, "high": 5000}},
        baseline={"top_p": 7.0},
    )
    assert {line.partition(":")[0] for line in found} == {"space.temprature", "space.top_k", "baseline.top_p"}


# --- what is opened is closed


JUDGED: Mapping[str, Any] = {"one": {"kind": "tests.test_plan:Judge"}, "two": {"kind": "tests.test_plan:Judge"}}


class Knowing(ToyBackend):
    """Knows its parameters before it is opened, as an engine does that takes long to load."""

    known = BackendInfo({"engine": "toy"}, PARAMETERS, DEFAULTS, concurrency=16)


def test_names_are_held_against_an_engine_twice_but_rows_are_looked_through_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many rows that takes a while."""
    looked: list[int] = []
    of = Fields.of
    monkeypatch.setattr(Fields, "of", lambda rows: looked.append(len(rows)) or of(rows))
    table = {"kind": "tests.test_plan:Knowing", "model": "toy"}
    asyncio.run(open_plan(tmp_path, backend=table).aclose())
    assert looked == [60]
    few = [row | {"level": 1} if n % 2 else row for n, row in enumerate(rows(60))]
    prompt = {"user": "{{ question }} {{ level }}"}
    told = refused(tmp_path, backend=table, dataset={"rows": few, "holdout": 0.4}, prompt=prompt)
    assert told == [
        'prompt: the user template uses "level", which is missing in 30 of the rows (the first: r0).'
        ' Fill it in, or write {{ level | default("") }}'
    ]
    assert looked == [60, 60]


def test_closing_a_plan_closes_its_scorers_and_its_engine(tmp_path: Path) -> None:
    async def work() -> None:
        spec = make_study(toy.study(tmp_path, backend=engine(), scorers=JUDGED, objectives=[{"maximize": "one"}]))
        plan = await prepare(spec)
        assert CLOSED == []
        await plan.aclose()

    asyncio.run(work())
    assert sorted(CLOSED) == ["backend", "one", "two"]


@pytest.mark.parametrize(
    ("options", "changes", "error"),
    [
        ({"refuses": True}, {}, BackendError),
        ({}, {"space": {"nonsense": {"low": 0.1, "high": 1.0}}}, SpecError),
        ({}, {"budget": {"generations": 10}}, SpecError),
        ({"default": {"temperature": "hot"}}, {}, BackendError),
    ],
)
def test_a_failing_open_closes_scorers_and_engine(
    tmp_path: Path, options: dict[str, Any], changes: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        open_plan(tmp_path, backend=engine(**options), scorers=JUDGED, objectives=[{"maximize": "one"}], **changes)
    assert sorted(CLOSED) == ["backend", "one", "two"]
    assert not issubclass(error, StudyError)
    assert not (tmp_path / "toy.db").exists()


def test_the_toy_engine_is_one(tmp_path: Path) -> None:
    assert open_plan(tmp_path).info.params == PARAMETERS
