"""The records between floors: what is legal, and how it is said."""

from __future__ import annotations

import math
from typing import Any

import pytest

from genopt.types import Backend, Domain, Generation, Scorer
from tests.toy import ToyBackend

FLOAT = Domain("float", "", 0.0, 1.0, low_open=True)
INT = Domain("int", "", -1, 100)
STRINGS = Domain("strings", "")


@pytest.mark.parametrize(
    ("domain", "given", "wanted"),
    [
        (FLOAT, 1, 1.0),
        (FLOAT, 0.25, 0.25),
        (INT, 5.0, 5),
        (INT, -1, -1),
        (Domain("bool", ""), True, True),
        (Domain("str", "", choices=("a", "b")), "b", "b"),
        (Domain("str", ""), "", ""),
        (STRINGS, "END", ("END",)),
        (STRINGS, ["a", "b"], ("a", "b")),
        (STRINGS, (), ()),
    ],
)
def test_coerce_gives_the_domains_own_type(domain: Domain, given: Any, wanted: Any) -> None:
    got = domain.coerce(given)
    assert got == wanted
    assert type(got) is type(wanted)


@pytest.mark.parametrize(
    ("domain", "given", "why"),
    [
        (FLOAT, 0.0, "outside (0, 1]"),
        (FLOAT, 1.5, "outside (0, 1]"),
        (FLOAT, True, "not a finite number"),
        (FLOAT, "0.5", "not a finite number"),
        (FLOAT, math.nan, "not a finite number"),
        (FLOAT, math.inf, "not a finite number"),
        (FLOAT, None, "not a finite number"),
        (INT, 5.5, "not a whole number"),
        (INT, -2, "outside [-1, 100]"),
        (Domain("bool", ""), 1, "not true or false"),
        (Domain("str", "", choices=("a", "b")), "c", "not one of a, b"),
        (Domain("str", ""), 3, "not a text"),
        (STRINGS, [""], "non-empty"),
        (STRINGS, [1], "list of non-empty texts"),
        (STRINGS, 3, "list of non-empty texts"),
    ],
)
def test_coerce_refuses_in_plain_words(domain: Domain, given: Any, why: str) -> None:
    with pytest.raises(ValueError) as error:
        domain.coerce(given)
    assert why in str(error.value)
    assert repr(given) in str(error.value)


@pytest.mark.parametrize(
    ("domain", "wanted"),
    [
        (FLOAT, "(0, 1]"),
        (INT, "[-1, 100]"),
        (Domain("int", "", 1), ">= 1"),
        (Domain("float", "", 0.0, low_open=True), "> 0"),
        (Domain("float", ""), "any number"),
        (Domain("bool", ""), "true or false"),
        (Domain("str", "", choices=("a", "b")), "one of a, b"),
        (Domain("str", ""), "text"),
        (STRINGS, "a list of texts"),
    ],
)
def test_bounds_are_written_as_people_write_them(domain: Domain, wanted: str) -> None:
    assert domain.bounds() == wanted


@pytest.mark.parametrize(("finish", "failed"), [("stop", 0), ("length", 0), ("degenerate", 1), ("error", 1)])
def test_only_degenerate_and_erroneous_generations_are_kept_from_scorers(finish: Any, failed: int) -> None:
    assert Generation("text", finish, 1, 1, 0.1).failed == bool(failed)


def test_the_protocols_tell_a_backend_from_a_scorer() -> None:
    backend = ToyBackend(model="toy")
    assert isinstance(backend, Backend)
    assert not isinstance(backend, Scorer)
    assert not isinstance(object(), Backend)
