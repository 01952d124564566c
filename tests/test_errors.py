"""Errors: a message, a hint, an exit code; several mistakes in one SpecError."""

from __future__ import annotations

from pathlib import Path

import pytest

from genopt.errors import BackendError, GenoptError, MissingExtra, ScorerError, SpecError, StudyError, writing


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


def test_a_file_that_cannot_be_written_is_bad_input_told_in_one_way(tmp_path: Path) -> None:
    """The name that the user gave, the system's reason, what to do; anything else is raised as it is."""
    folder = tmp_path / "there"
    folder.mkdir()
    with pytest.raises(SpecError) as told, writing(f"-o {folder}"):
        folder.write_text("x")
    assert str(told.value) == f"-o {folder}: cannot be written (Is a directory). Name another file"
    with pytest.raises(SpecError, match=r"^x: cannot be written \(odd\)"), writing("x"):
        raise OSError("odd")
    with pytest.raises(KeyError), writing("x"):
        raise KeyError("x")
