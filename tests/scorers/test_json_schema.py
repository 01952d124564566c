import json

import pytest

from genopt.errors import SpecError
from genopt.scorers.json_schema import JsonSchema
from tests.scorers.helpers import example, obeys, scores, values

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "age": {"type": "integer", "minimum": 0},
        "home": {"$ref": "#/$defs/address"},
        "note": {"type": "string"},
    },
    "required": ["name", "age", "home"],
    "additionalProperties": False,
    "$defs": {"address": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}},
}
GOOD = {"name": "Ada", "age": 36, "home": {"city": "London"}}


@pytest.mark.parametrize("options", [{}, {"schema": PERSON}, {"schema": PERSON, "partial": True, "strict": True}])
def test_it_obeys(options):
    obeys(JsonSchema(name="s", **options), example())


def test_any_json_without_a_schema():
    scorer = JsonSchema(name="s")
    assert values(scorer, example(), "[1]", '{"a": 1}', "```json\n{}\n```", "nothing", "") == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert scores(scorer, example(), "oops")[0].why.startswith("not JSON: Expecting value at line 1")


def test_schema_and_the_first_error():
    scorer = JsonSchema(name="s", schema=PERSON)
    bad = {**GOOD, "home": {"city": 7}}
    good, wrong, missing = scores(scorer, example(), json.dumps(GOOD), json.dumps(bad), '{"name": "Ada"}')
    assert (good.value, good.why) == (1.0, "")
    assert (wrong.value, wrong.why) == (0.0, "$.home.city: 7 is not of type 'string'")
    assert (missing.value, missing.why) == (0.0, "$: 'age' is a required property")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (GOOD, 1.0),
        ({"name": "Ada", "age": 36}, 2 / 3),
        ({"name": "", "age": -1, "home": {}}, 0.0),
        ({**GOOD, "home": {"city": 7}}, 2 / 3),
        ({**GOOD, "note": 1}, 3 / 4),
        ({**GOOD, "extra": 1}, 3 / 4),
        ([GOOD], 0.0),
        ({}, 0.0),
    ],
)
def test_partial_credit(value, expected):
    scorer = JsonSchema(name="s", schema=PERSON, partial=True)
    assert values(scorer, example(), json.dumps(value)) == [pytest.approx(expected)]


def test_partial_counts_all_properties_when_none_is_required():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
    assert values(JsonSchema(name="s", schema=schema, partial=True), example(), '{"a": 1, "b": "x"}') == [0.5]


def test_strict():
    text = f"Here: {json.dumps(GOOD)}"
    assert values(JsonSchema(name="s", schema=PERSON), example(), text) == [1.0]
    assert values(JsonSchema(name="s", schema=PERSON, strict=True), example(), text) == [0.0]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "objekt"}, r"scorers\.s: schema: \$\.type: 'objekt'"),
        ({"properties": {"a": {"minimum": "x"}}}, r"\$\.properties\.a\.minimum"),
        ({"$ref": "#/$defs/gone"}, "'#/\\$defs/gone' leads nowhere"),
        ({"properties": {"a": {"$ref": "https://example.com/a.json"}}}, "'https://example.com/a.json' leads nowhere"),
    ],
)
def test_wrong_schemas(schema, message):
    with pytest.raises(SpecError, match=message):
        JsonSchema(name="s", schema=schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"$ref": {"type": "string"}, "a": {"enum": [{"$ref": "#/nowhere"}]}}},
        {"$defs": {"n": {"$anchor": "node", "type": "object"}}, "$ref": "#node"},
        {"type": "object", "properties": {"next": {"$ref": "#"}}},
        {"$defs": {"a/b": {"type": "object"}}, "$ref": "#/$defs/a~1b"},
        {
            "$id": "https://example.com/root",
            "$defs": {"x": {"$id": "https://example.com/item", "type": "object"}},
            "$ref": "item",
        },
    ],
)
def test_schemas_with_references_that_do_resolve(schema):
    assert values(JsonSchema(name="s", schema=schema), example(), "{}") == [1.0]


def test_what_a_validator_chokes_on_is_scored():
    deep = '{"next": ' * 400 + "{}" + "}" * 400
    recursive = JsonSchema(name="s", schema={"type": "object", "properties": {"next": {"$ref": "#"}}})
    assert values(recursive, example(), deep)[0] in (0.0, 1.0)
    assert values(JsonSchema(name="s", schema={"multipleOf": 0.5}), example(), "1e400", "1.5")[1] == 1.0


def test_draft_7_is_read_as_draft_7():
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "integer"}, {"type": "string"}]}
    assert values(JsonSchema(name="s", schema=schema), example(), '[1, "a"]', '["a", 1]') == [1.0, 0.0]
