"""Prompts: values are never templates, templates reach nothing, few-shot, what a configuration's key sees."""

from __future__ import annotations

import time
from typing import Any

import pytest

from genopt.errors import SpecError
from genopt.prompt import Front, Prompt, choose_shots, problems
from genopt.types import Example, Message

ROW = Example("r1", {"ticket": "My mail is gone.", "tags": ["a", "b"], "n": 3}, ("Restore it.",))
SHOTS = (
    Example("s1", {"ticket": "one", "tags": [], "n": 1}, ("ONE", "uno")),
    Example("s2", {"ticket": "two", "tags": [], "n": 2}, ("TWO",)),
)


def turns(messages: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


def one(template: str, fields: dict[str, Any] | None = None, **variables: Any) -> str:
    (message,) = Prompt.from_parts(user=template).render(Example("e", fields or {}), variables)
    return message.content


# --- rendering -------------------------------------------------------------------------------------------------------


def test_fields_and_variables() -> None:
    prompt = Prompt.from_parts(system="Answer. {{ style }}", user="{{ ticket }}\n", variables={"style"})
    assert turns(prompt.render(ROW, {"style": "Be brief.", "temperature": 0.3})) == [
        ("system", "Answer. Be brief."),
        ("user", "My mail is gone.\n"),
    ]
    assert one("{% for t in tags %}[{{ t }}]{% endfor %}{{ n + 1 }}", dict(ROW.fields)) == "[a][b]4"
    assert one("{{ question }}", {"question": "a < b & 'c' \"d\""}) == "a < b & 'c' \"d\""


@pytest.mark.parametrize(
    "text", ["{{ x }}", "{% for %}", "{# gone #}", "{{ 7*7 }}", "{{ ''.__class__ }}", "{%raw%}", "\x00\r\n {{"]
)
def test_values_are_never_templates(text: str) -> None:
    assert one("<{{ q }}>", {"q": text, "x": "leak"}) == f"<{text}>"
    assert one("<{{ style }}>", {"x": "leak"}, style=text) == f"<{text}>"
    rows = Example("e", {"messages": [{"role": "user", "content": f"say {text}"}], "x": "leak"})
    assert turns(Prompt.from_parts().render(rows, {})) == [("user", f"say {text}")]
    shot = Example("s", {"q": text}, (text,))
    rendered = Prompt.from_parts(user="{{ q }}!").render(Example("e", {"q": "?"}), {}, [shot])
    assert turns(rendered) == [("user", f"{text}!"), ("assistant", text), ("user", "?!")]


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ q.__init__.__globals__ }}",
        "{{ ().__class__.__bases__[0] }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ joiner.__init__['__globals__'] }}",
        "{{ q|attr('__class__')|attr('__mro__') }}",
        "{{ '{0.__class__.__mro__}'.format(q) }}",
        "{{ tags.append(1) }}",
        "{{ row.update({'a': 1}) }}",
        "{{ range(10000000)|list }}",
        "{{ lipsum() }}",
        "{{ 1 / 0 }}",
        "{{ missing.deeper }}",
        "{{ row.missing }}",
        "{{ row['missing'] }}",
    ],
)
def test_what_templates_cannot_do(template: str) -> None:
    fields: dict[str, Any] = {"q": "text", "tags": [0], "row": {"a": 0}}
    with pytest.raises(SpecError) as caught:
        Prompt.from_parts(user="{{ q }} " + template).render(Example("e7", fields), {})
    assert 'example "e7": the user template fails: ' in str(caught.value)
    assert "q, tags, row" in caught.value.hint
    assert fields == {"q": "text", "tags": [0], "row": {"a": 0}}


def test_the_failing_template_is_named() -> None:
    prompt = Prompt.from_parts(system="{{ nope }}", user="{{ ticket }}")
    with pytest.raises(SpecError, match="\"r1\": the system template fails: 'nope' is undefined"):
        prompt.render(ROW, {})
    with pytest.raises(SpecError, match=r"the user template, line 2: .*Correct it"):
        Prompt.from_parts(user="a\n{% if %}").render(ROW, {})


@pytest.mark.parametrize("value", ["", "   ", "\n\t"])
def test_a_blank_user_prompt_is_a_mistake(value: str) -> None:
    with pytest.raises(SpecError, match='example "e9": the user prompt'):
        Prompt.from_parts(system="x", user="{{ q }}\n").render(Example("e9", {"q": value}), {})
    row = Example("e9", {"messages": [{"role": "user", "content": value}]})
    with pytest.raises(SpecError, match='example "e9": the user prompt'):
        Prompt.from_parts(system="x").render(row, {})


def test_a_blank_system_prompt_is_none() -> None:
    prompt = Prompt.from_parts(system="{{ style }}\n", user="{{ ticket }}")
    assert [message.role for message in prompt.render(ROW, {"style": ""})] == ["user"]
    assert [message.role for message in prompt.render(ROW, {"style": "x"})] == ["system", "user"]


def test_conversations() -> None:
    prompt = Prompt.from_parts(
        system="S {{ n }}",
        messages=[
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": "{{ ticket }}"},
        ],
    )
    head = [("system", "S 3"), ("user", "Hello"), ("assistant", "Yes?")]
    assert turns(prompt.render(ROW, {})) == [*head, ("user", "My mail is gone.")]
    assert turns(prompt.render(ROW, {}, SHOTS[:1])) == [
        *head, ("user", "one"), ("assistant", "ONE"), ("user", "My mail is gone.")
    ]  # fmt: skip
    replaced = prompt.render(ROW, {"system": "T", "user": "<{{ ticket }}>"})
    assert turns(replaced) == [("system", "T"), *head[1:], ("user", "<My mail is gone.>")]
    for wrong in ({"role": "tool", "content": "x"}, {"role": "user"}, {"role": "user", "content": "x", "name": "y"}):
        with pytest.raises(SpecError, match="message 1 is not"):
            Prompt.from_parts(messages=[wrong])


def test_rows_that_are_conversations() -> None:
    talk = [{"role": "system", "content": "row's"}, {"role": "user", "content": "u1"}]
    more = [*talk, {"role": "assistant", "content": "a1"}, {"role": "user", "content": "u2"}]
    row = Example("e", {"messages": more, "topic": "x"}, ("a2",))
    assert turns(Prompt.from_parts().render(row, {})) == [(turn["role"], turn["content"]) for turn in more]
    tail = [("user", "u1"), ("assistant", "a1"), ("user", "u2")]
    assert turns(Prompt.from_parts(system="on {{ topic }}").render(row, {})) == [("system", "on x"), *tail]
    assert turns(Prompt.from_parts().render(row, {"system": "by {{ style }}", "style": "s"})) == [
        ("system", "by s"), *tail
    ]  # fmt: skip
    shot = Example("s", {"messages": talk}, ("r1",))
    assert turns(Prompt.from_parts().render(row, {}, [shot])) == [
        ("system", "row's"), ("user", "u1"), ("assistant", "r1"), *tail
    ]  # fmt: skip
    for fields in ({}, {"messages": "text"}, {"messages": []}, {"messages": [{"role": "user"}]}, {"messages": [3]}):
        with pytest.raises(SpecError, match='example "e"'):
            Prompt.from_parts().render(Example("e", fields), {})


def test_system_and_user_variables_are_templates() -> None:
    prompt = Prompt.from_parts(system="old", user="old {{ ticket }}")
    assert turns(prompt.render(ROW, {"user": "new {{ n }}", "style": "{{ n }}"})) == [
        ("system", "old"),
        ("user", "new 3"),
    ]
    assert turns(prompt.render(ROW, {"system": "{{ style }}", "style": "{{ n }}"}))[0] == ("system", "{{ n }}")
    only = Prompt.from_parts(variants={"user": ["a {{ n }}", "b {{ ticket }}"]})
    assert turns(only.render(ROW, {"user": "a {{ n }}", "system": "s"})) == [("system", "s"), ("user", "a 3")]
    with pytest.raises(SpecError, match=r"space\.user: 3 is not a text"):
        prompt.render(ROW, {"user": 3})


def test_a_variable_that_is_not_set_hides_no_field() -> None:
    assert one("{{ stop }}", {"stop": "here"}, stop=None) == "here"
    assert one("{{ stop }}", {"stop": "here"}, stop="there") == "there"
    assert one("{{ user }}/{{ system }}", {"user": "u", "system": "s"}) == "u/s"


# --- few-shot --------------------------------------------------------------------------------------------------------


def test_shots_become_turns() -> None:
    prompt = Prompt.from_parts(system="S", user="{{ style }}: {{ ticket }}")
    assert turns(prompt.render(ROW, {"style": "x", "shots": 2}, SHOTS)) == [
        ("system", "S"),
        ("user", "x: one"),
        ("assistant", "ONE"),
        ("user", "x: two"),
        ("assistant", "TWO"),
        ("user", "x: My mail is gone."),
    ]
    assert prompt.render(ROW, {"style": "x"}, SHOTS)[:3] == prompt.render(ROW, {"style": "x"}, SHOTS[:1])[:3]
    with pytest.raises(SpecError, match='example "s3" has no reference'):
        prompt.render(ROW, {"style": "x"}, [Example("s3", {"ticket": "?"})])


def test_a_template_that_writes_shots_gets_them_as_rows() -> None:
    prompt = Prompt.from_parts(
        system="{% for s in shots %}{{ s.ticket }} -> {{ s.answer }}; {% endfor %}", user="{{ ticket }}"
    )
    assert turns(prompt.render(ROW, {"shots": 2}, SHOTS)) == [
        ("system", "one -> ONE; two -> TWO; "),
        ("user", "My mail is gone."),
    ]
    assert turns(prompt.render(ROW, {"shots": 0})) == [("user", "My mail is gone.")]
    row = Example("e", {"messages": [{"role": "user", "content": "u"}]})
    front = Prompt.from_parts(system="{{ shots|length }}").render(row, {}, SHOTS)
    assert turns(front) == [("system", "2"), ("user", "u")]


def test_chosen_shots_are_prefixes_and_never_related() -> None:
    pool = [Example(str(n), {"q": n}, ("x",) if n % 3 else (), f"g{n % 5}" if n % 2 else None) for n in range(60)]
    for example in [*pool, Example("new", {}, (), "g1")]:
        most = choose_shots(pool, example, 100)
        for count in range(12):
            assert choose_shots(pool, example, count) == most[:count]
        assert example not in most and all(shot.references for shot in most)
        assert example.group is None or all(shot.group != example.group for shot in most)
        left_out = [e for e in pool if e not in most and e.references and e.id != example.id]
        assert all(e.group is not None and e.group == example.group for e in left_out)
        assert list(most) == [e for e in pool if e in most]


# --- names and keys --------------------------------------------------------------------------------------------------


def test_names() -> None:
    prompt = Prompt.from_parts(
        system="{% set own = 1 %}{{ own }}{{ style }}{% for i in range(n) %}{{ i }}{% endfor %}",
        user="{{ ticket.text }}{{ tone|upper }}{% if extra is defined %}{{ extra }}{% endif %}",
        variants={"user": ["{{ ticket }}{{ fresh }}", "{% broken"]},
    )
    assert prompt.names() == {"style", "n", "ticket", "tone", "extra", "fresh"}
    assert Prompt.from_parts().names() == frozenset()
    assert Prompt.from_parts(user="{{ range }}", variables={"range"}).names() == {"range"}
    assert Prompt.from_parts(user="{{ range(2) }}").names() == frozenset()


def test_texts_are_equal_exactly_when_prompts_are() -> None:
    prompt = Prompt.from_parts(system="S {{ style }}", user="{{ ticket }} {{ n }}")
    settings: list[dict[str, Any]] = [
        {"style": "a"},
        {"style": "b"},
        {"style": "a", "system": "S"},
        {"style": "a", "user": "{{ ticket }}"},
        {"style": "a", "shots": 1},
        {"style": "a", "shots": 2},
        {"style": 1},
        {"style": 1.0},
    ]
    assert len({prompt.texts(setting) for setting in settings}) == len(settings)
    same: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"style": "a"}, {"style": "a", "temperature": 0.3}),
        ({"style": "a"}, {"style": "a", "shots": 0}),
        ({"style": "a"}, {"style": "a", "system": "S {{ style }}"}),
        ({"style": "a", "system": "S"}, {"style": "b", "system": "S"}),
    ]
    for left, right in same:
        assert prompt.texts(left) == prompt.texts(right)
        assert prompt.render(ROW, left) == prompt.render(ROW, right)
    assert prompt.texts({"style": "a"}) == ("system\nS {{ style }}", "user\n{{ ticket }} {{ n }}", 'style="a"')
    assert Prompt.from_parts().texts({"temperature": 1}) == ()
    hash(prompt)


def test_problems() -> None:
    fields = ["ticket", "answer"]
    good = Prompt.from_parts(
        system="{{ style }}", user="{{ ticket }}{{ note|default('') }}{% if x is defined %}!{% endif %}"
    )
    assert problems(good, fields, {"style", "shots"}) == []
    (typo,) = problems(Prompt.from_parts(user="{{ tikcet }}"), fields, set())
    assert 'the user template uses "tikcet"' in typo and 'Did you mean "ticket"?' in typo
    assert "The rows have ticket, answer" in typo
    (gap,) = problems(Prompt.from_parts(user="{{ ticket }}{{ note }}"), fields, set(), {"note": ["r3", "r7"]})
    assert 'uses "note", which is missing in 2 of the rows (the first: r3)' in gap and '{{ note | default("") }}' in gap
    (syntax,) = problems(Prompt.from_parts(user="ok\n\n{{ ticket "), fields, set())
    assert syntax.startswith("the user template, line 3: ")
    (filtered,) = problems(Prompt.from_parts(user="{{ ticket|nope }}"), fields, set())
    assert "line 1: No filter named 'nope'" in filtered
    (include,) = problems(Prompt.from_parts(user="{% include 'secret' %}"), fields, set())
    assert "cannot include" in include
    (unused,) = problems(Prompt.from_parts(user="{{ ticket }}{{ style }}"), fields, {"style", "stile"})
    assert 'no template uses the variable "stile". Did you mean "style"?' in unused
    (clash,) = problems(Prompt.from_parts(user="{{ ticket }}"), fields, {"ticket"})
    assert '"ticket" is both a field' in clash
    (two,) = problems(Prompt.from_parts(system="a", messages=[{"role": "system", "content": "b"}, USER]), fields, set())
    assert "two system prompts" in two
    (nobody,) = problems(Prompt.from_parts(system="a"), fields, set())
    assert "no user prompt" in nobody
    assert problems(Prompt.from_parts(system="a"), ["messages"], set()) == []
    assert problems(Prompt.from_parts(system="a"), fields, {"user"}) == []
    (dangling,) = problems(Prompt.from_parts(messages=[{"role": "assistant", "content": "b"}]), ["messages"], set())
    assert "no user message" in dangling
    (shots,) = problems(Prompt.from_parts(user="{{ shots }}"), ["shots"], set())
    assert '"shots" is a field' in shots


USER = {"role": "user", "content": "{{ ticket }}"}


def test_problems_look_into_the_variants_of_the_space() -> None:
    prompt = Prompt.from_parts(system="x", variants={"user": ["{{ ticket }}", "{{ tocket }}", "{{ ticket|}}"]})
    found = problems(prompt, ["ticket"], {"user"})
    assert len(found) == 2
    assert found[0].startswith('choice 2 of space.user uses "tocket"') and found[1].startswith(
        "choice 3 of space.user, "
    )
    both = Prompt.from_parts(messages=[USER, {"role": "assistant", "content": "ok"}, {**USER, "content": "{{ nope }}"}])
    assert problems(both, ["ticket"], set())[0].startswith('the user template 2 uses "nope"')


def test_a_field_that_no_template_can_name_is_told_with_a_name_that_it_can() -> None:
    fields = ["first name", "a-b", "none", "self", "2nd", "ticket", "a"]

    def found(user: str, fields: list[str] = fields) -> list[str]:
        return problems(Prompt.from_parts(user=user), fields, set())

    (spaced,) = found("{{ ticket }} {{ first name }}")
    assert spaced == (
        'the user template writes the field "first name", which Jinja reads otherwise.'
        ' Write {{ first_name }} and set dataset.map = { first_name = "first name" }'
    )
    (hyphen,) = found("{{- a-b | upper -}}")  # "b" alone is no field, and is not what was meant
    assert 'dataset.map = { a_b = "a-b" }' in hyphen
    assert found("{{ a-b }}", ["a", "b", "a-b"]) == []
    (nothing,) = found("{{ none }}")
    assert "{{ field_none }}" in nothing
    assert len(found("{{ self }} {{ 2nd }} {{ tocket }}")) == 3
    assert found("{{ none }}", ["ticket"]) == []
    (umlaut,) = found("{{ schöner Name }}", ["schöner Name"])
    assert umlaut.endswith('dataset.map = { "schöner_Name" = "schöner Name" }')


def test_rendering_is_fast_enough_for_100_000_requests() -> None:
    prompt = Prompt.from_parts(system="You answer support tickets. {{ style }}", user="{{ ticket }}")
    prompt.render(ROW, {"style": "x"})
    best = min(_seconds(prompt) for _ in range(3))
    assert best / 2000 < 300e-6  # about 17 microseconds on an idle core; a template compiled anew takes over 500


def _seconds(prompt: Prompt) -> float:
    start = time.perf_counter()
    for _ in range(2000):
        prompt.render(ROW, {"style": "Be brief.", "temperature": 0.3})
    return time.perf_counter() - start


SUMS = (Example("a", {"q": "1 + 1?"}, ("2",)), Example("b", {"q": "2 + 2?"}, ("4",)))


def test_the_front_of_a_conversation_is_what_every_row_shares() -> None:
    prompt = Prompt.from_parts(system="Answer. {{ style }}", user="{{ q }}", variables=["style"])
    front = prompt.front({"style": "Briefly."}, SUMS)
    assert front.user == "{{ q }}" and front.loose == ()
    assert front.messages == prompt.render(Example("c", {"q": "3 + 3?"}), {"style": "Briefly."}, SUMS)[:-1]
    assert prompt.front({"style": "Briefly.", "system": " ", "user": "Say: {{ q }}"}) == Front((), "Say: {{ q }}", ())


def test_what_differs_from_row_to_row_is_left_out_and_said() -> None:
    system = Prompt.from_parts(system="About {{ topic }}.", user="{{ q }}").front({}, SUMS)
    assert system.loose == ("the system message, which differs from row to row (topic)",)
    assert [message.role for message in system.messages] == ["user", "assistant"] * 2
    conversation = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "About {{ topic }}"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "{{ q }}"},
    ]
    turns = Prompt.from_parts(messages=conversation).front({})
    assert turns.messages == (Message("system", "Be kind."),)  # half a conversation is another one
    assert turns.loose == ("the user message, which differs from row to row (topic)",)
    begun = Prompt.from_parts(messages=[*conversation, {"role": "assistant", "content": "{"}])
    assert begun.front({"topic": "tea"}).loose == ("the message after the user's",)
    own = Prompt.from_parts(user="{% for s in shots %}{{ s.q }}{% endfor %}{{ q }}")
    assert own.front({}, SUMS).loose == ("the few-shot examples, which a template writes itself",)
    assert own.front({}).loose == ()


def test_rows_with_messages_share_the_system_prompt_and_the_shots() -> None:
    shot = Example("a", {"messages": [{"role": "user", "content": "1 + 1?"}]}, ("2",))
    front = Prompt.from_parts(system="Count.").front({}, [shot])
    assert front.messages == (Message("system", "Count."), Message("user", "1 + 1?"), Message("assistant", "2"))
    assert (front.user, front.loose) == ("", ())
