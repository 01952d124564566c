"""The public names: each resolves, and importing genopt loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

import genopt
from genopt import errors, types

HEAVY = ("torch", "transformers", "optuna", "pandas", "pydantic", "sqlalchemy", "numpy", "jinja2", "click", "scipy")


@pytest.mark.parametrize("name", genopt.__all__)
def test_every_public_name_resolves_to_something_of_that_name(name: str) -> None:
    found = getattr(genopt, name)
    assert found.__name__ == name
    assert found.__module__.startswith("genopt.")
    assert found.__doc__


def test_names_are_sorted_unique_and_listed() -> None:
    assert genopt.__all__ == sorted(set(genopt.__all__))
    assert dir(genopt) == sorted(genopt.__all__)


def test_names_are_the_very_things_that_modules_hold() -> None:
    assert genopt.SpecError is errors.SpecError
    assert genopt.Example is types.Example
    assert genopt.StudySpec is __import__("genopt.spec").spec.StudySpec


def test_all_errors_are_public() -> None:
    own = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.GenoptError)
    }
    assert own <= set(genopt.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        _ = genopt.optimise


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_importing_genopt_loads_nothing_heavy() -> None:
    assert run(f"import sys, genopt; print([n for n in {HEAVY!r} if n in sys.modules])") == "[]"


def test_the_study_file_is_read_without_the_machinery_that_runs_it() -> None:
    code = "import sys, genopt; genopt.read_study; print([n for n in {!r} if n in sys.modules])"
    assert run(code.format(("torch", "transformers", "optuna", "pandas", "sqlalchemy"))) == "[]"


def test_the_machinery_runs_without_the_optional_libraries() -> None:
    optional = ("torch", "transformers", "sentence_transformers", "pyarrow", "datasets", "optuna_dashboard")
    code = (
        f"import sys, genopt as g; g.optimize, g.load, g.evaluate; print([n for n in {optional} if n in sys.modules])"
    )
    assert run(code) == "[]"


def test_scipy_waits_for_who_searches_or_tests() -> None:
    code = "import sys, genopt as g; g.optimize, g.load, g.evaluate; print([n for n in sys.modules if n == 'scipy'])"
    assert run(code) == "[]"
