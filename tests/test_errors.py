"""Errors: a message, a hint, an exit code; several mistakes in one SpecError."""

from __future__ import annotations

import pytest

from genopt.errors import BackendError, GenoptError, MissingExtra, ScorerError, SpecError, StudyError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SpecError("x"), 2),
        (MissingExtra("torch", "transformers"), 2),
        (StudyError("x"), 2),
        (BackendError("x"), 1),
        (ScorerError("x"), 1),
    ],
)
def test_each_error_is_a_genopt_error_with_its_exit_code(error: GenoptError, code: int) -> None:
    assert isinstance(error, GenoptError)
    assert error.exit_code == code
    assert error.hint == ""


def test_a_spec_error_holds_one_line_per_mistake() -> None:
    assert SpecError("alone").problems == ("alone",)
    several = SpecError(["first", "second"], hint="mend them")
    assert several.problems == ("first", "second")
    assert str(several) == "first\nsecond"
    assert several.hint == "mend them"


def test_a_missing_extra_says_how_to_install_it() -> None:
    error = MissingExtra("PyTorch", "transformers")
    assert 'pip install "genopt[transformers]"' in str(error)
    assert error.extra == "transformers"


def test_a_backend_error_is_final_unless_it_says_otherwise() -> None:
    assert not BackendError("x").retryable
    assert BackendError("x", retryable=True, hint="wait").retryable
    assert BackendError("x", hint="wait").hint == "wait"
