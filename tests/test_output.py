"""What answers are kept to: read, held against the engine, sent with every request, part of a configuration."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from genopt.errors import SpecError
from genopt.plan import Plan
from genopt.prepare import prepare
from genopt.spec.read import make_study
from genopt.types import Generation
from tests.studies import backend, run
from tests.toy import study

SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
EVERYTHING = ["schema", "regex", "choices"]


def table(folder: Path, output: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    found = study(folder, **{"backend": backend(structured=EVERYTHING, log=str(folder / "log"))} | changes)
    return found | ({} if output is None else {"output": output})


def planned(folder: Path, output: dict[str, Any] | None, **changes: Any) -> Plan:
    async def open_and_close() -> Plan:
        plan = await prepare(make_study(table(folder, output, **changes), folder=folder))
        await plan.aclose()
        return plan

    return asyncio.run(open_and_close())


def refused(folder: Path, output: dict[str, Any], **changes: Any) -> str:
    with pytest.raises(SpecError) as error:
        planned(folder, output, **changes)
    return str(error.value)


@pytest.mark.parametrize(
    ("output", "key", "sent"),
    [
        ({"schema": SCHEMA}, "schema", SCHEMA),
        ({"regex": "(yes|no)"}, "regex", "(yes|no)"),
        ({"choices": ["yes", "no"]}, "choices", ["yes", "no"]),
    ],
)
def test_every_request_carries_it(tmp_path: Path, output: dict[str, Any], key: str, sent: Any) -> None:
    assert run(table(tmp_path, output), tmp_path).decided()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert {line["phase"] for line in lines} == {"tune", "confirm"}
    nothing = {"schema": None, "regex": None, "choices": []}
    for line in lines:
        assert {name: line[name] for name in nothing} == nothing | {key: sent}


def test_a_schema_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "answer.json").write_text(json.dumps(SCHEMA))
    assert planned(tmp_path, {"schema": {"file": "answer.json"}}).output == {"schema": SCHEMA}
    (tmp_path / "answer.json").write_text("{,")
    assert "answer.json:1: malformed JSON" in refused(tmp_path, {"schema": {"file": "answer.json"}})
    (tmp_path / "answer.json").write_text("[]")
    assert "is no JSON object" in refused(tmp_path, {"schema": {"file": "answer.json"}})
    assert "none.json: no such file" in refused(tmp_path, {"schema": {"file": "none.json"}})


def test_what_cannot_be_kept_to_is_refused_before_the_engine_is_opened(tmp_path: Path) -> None:
    assert "output.schema: $.type: 'text' is not valid" in refused(tmp_path, {"schema": {"type": "text"}})
    assert "output.schema: $ref '#/$defs/a' leads nowhere" in refused(tmp_path, {"schema": {"$ref": "#/$defs/a"}})
    assert "output.regex: '(' is no regular expression" in refused(tmp_path, {"regex": "("})
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("can", "words"),
    [
        (["choices"], "output.schema: toy cannot keep answers to a JSON schema. It can to a list of choices"),
        ([], "output.schema: toy cannot keep answers to a JSON schema. It cannot to anything"),
    ],
)
def test_an_engine_that_cannot_is_named_with_what_it_can(tmp_path: Path, can: list[str], words: str) -> None:
    assert words in refused(tmp_path, {"schema": SCHEMA}, backend=backend(structured=can))


def test_another_constraint_is_another_configuration(tmp_path: Path) -> None:
    outputs: list[dict[str, Any] | None] = [None, {"regex": "yes|no"}, {"choices": ["yes", "no"]}]
    plans = [planned(tmp_path, output) for output in outputs]
    assert len({plan.baseline().key for plan in plans}) == len(plans)
    assert [plan.description().get("output") for plan in plans] == outputs
    assert plans[0].baseline().key == planned(tmp_path, None).baseline().key


def test_a_study_goes_on_only_with_the_same_constraint(tmp_path: Path) -> None:
    assert run(table(tmp_path, {"regex": "yes|no"}), tmp_path).decided()
    changed = run(table(tmp_path, {"regex": "(yes|no)"}), tmp_path).error
    assert changed is not None and "output" in str(changed)


def test_a_scorer_of_json_judges_by_the_schema_of_the_study(tmp_path: Path) -> None:
    own = {"type": "array"}
    scorers = {
        "whole": {"kind": "json_schema"},
        "part": {"kind": "json_schema", "partial": True},
        "own": {"kind": "json_schema", "schema": own},
        "right": {"kind": "exact_match"},
    }
    aims = {"scorers": scorers, "objectives": [{"maximize": "whole"}]}
    plan = planned(tmp_path, {"schema": SCHEMA}, **aims)
    free = planned(tmp_path, None, **aims)

    async def score(scorer: str) -> float | None:
        text = Generation('{"question": "Why?"}', "stop", 1, 1, 0.0)
        return (await plan.scorers[scorer].score(plan.tune[0], [text]))[0].value

    assert [asyncio.run(score(name)) for name in ("whole", "part", "own")] == [0.0, 0.0, 0.0]
    same = {name for name in scorers if plan.scorer_keys[name] == free.scorer_keys[name]}
    assert same == {"own", "right"}  # stored scores by another schema are not taken for these
