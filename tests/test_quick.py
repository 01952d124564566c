"""`genopt optimize` without a study file: what is guessed, what is written, how the same command goes on with it."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from genopt.template import guess_backend
from tests.commands import Shell, write_rows
from tests.toy import rows

TOY = ("--backend", "tests.toy:ToyBackend", "--scorer", "exact_match", "--trials", "3", "-q")


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")  # nobody is there
    return Shell(tmp_path, monkeypatch, capsys)


def test_model_and_data_are_enough_and_leave_a_study_file(shell: Shell) -> None:
    write_rows(shell.folder / "my questions.jsonl", rows(40))
    flags = ["--model", "lib/toy:1b", "--data", "my questions.jsonl", *TOY]
    ran = shell("optimize", *flags)
    assert ran.code == 0, ran.err
    assert "wrote toy-1b-my-questions.toml" in ran.err and "Cost: 3 configurations" in ran.out
    table = tomllib.loads((shell.folder / "toy-1b-my-questions.toml").read_text())
    assert table["dataset"]["path"] == "my questions.jsonl" and table["prompt"] == {"user": "{{ question }}"}
    assert table["backend"] == {"kind": "tests.toy:ToyBackend", "model": "lib/toy:1b"}
    assert (table["scorers"], table["budget"]) == ({"quality": {"kind": "exact_match"}}, {"trials": 3})
    assert shell("best", "toy-1b-my-questions.toml", "--json").json["trials"] == 3


def test_the_same_command_goes_on_and_more_trials_search_on(shell: Shell) -> None:
    write_rows(shell.folder / "q.jsonl", rows(40))
    flags = ["--model", "toy", "--data", "q.jsonl", *TOY]
    first = shell("optimize", *flags)
    again = shell("optimize", *flags)
    assert again.code == 0 and "toy-q.toml is the study that these flags describe" in again.err
    assert again.out == first.out  # nothing was generated again
    more = shell("optimize", *flags, "--trials", "6")
    assert more.code == 0 and "Cost: 6 configurations" in more.out
    assert len(list(shell.folder.glob("*.toml"))) == 1


def test_a_file_that_says_something_else_is_left_alone(shell: Shell) -> None:
    write_rows(shell.folder / "q.jsonl", rows(40))
    path = shell.folder / "toy-q.toml"
    path.write_text("precious = true")
    flags = ["--model", "toy", "--data", "q.jsonl", *TOY]
    ran = shell("optimize", *flags)
    assert ran.code == 2 and "toy-q.toml is there and differs in backend, dataset" in ran.err and "-o" in ran.err
    assert path.read_text() == "precious = true"
    assert shell("optimize", *flags, "-o", "other.toml").code == 0
    changed = shell("optimize", *flags, "-o", "other.toml", "--prompt", "Really: {{ question }}")
    assert changed.code == 2 and "other.toml is there and differs in prompt." in changed.err


def test_a_folder_that_is_not_there_is_told(shell: Shell) -> None:
    write_rows(shell.folder / "q.jsonl", rows(40))
    ran = shell("optimize", "--model", "toy", "--data", "q.jsonl", *TOY, "-o", "nowhere/s.toml")
    assert ran.code == 2 and "nowhere/s.toml: cannot be written" in ran.err


def test_flags_say_what_is_not_guessed(shell: Shell) -> None:
    write_rows(shell.folder / "q.jsonl", [{"ask": row["question"], "right": row["answer"]} for row in rows(40)])
    flags = ["--model", "toy", "--data", "q.jsonl", *TOY]
    ran = shell("optimize", *flags, "--reference", "right", "--prompt", "Well: {{ ask }}")
    assert ran.code == 0, ran.err
    table = tomllib.loads((shell.folder / "toy-q.toml").read_text())
    assert table["dataset"]["reference"] == "right" and table["prompt"]["user"] == "Well: {{ ask }}"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "name a study file, or --model and --data"),
        (["--model", "toy"], "name a study file, or --model and --data"),
        (["study.toml", "--model", "toy", "--trials", "3"], "--model, --trials: only without a study file"),
        (["--model", "toy", "--data", "none.jsonl"], "none.jsonl: no such file"),
        (["--model", "toy", "--data", "bare.jsonl"], "no row has a reference to score by"),
        (["--model", "toy", "--data", "q.jsonl", "--scorer", "rogue_l"], "Did you mean 'rouge_l'?"),
        (["--model", "toy", "--data", "q.jsonl", "--backend", "olama"], "Did you mean 'ollama'?"),
        (["--model", "toy", "--data", "q.jsonl", "--scorer", "regex"], "genopt init --scorer regex"),
        (["--model", "toy", "--data", "q.jsonl", "--reference", "anwser"], 'Did you mean "answer"?'),
    ],
)
def test_what_is_not_enough_is_told_and_nothing_is_written(shell: Shell, flags: list[str], words: str) -> None:
    write_rows(shell.folder / "q.jsonl", rows(40))
    write_rows(shell.folder / "bare.jsonl", [{"question": "Why?"}] * 20)
    ran = shell("optimize", *flags)
    assert ran.code == 2 and words in ran.err and ran.out == ""
    assert not list(shell.folder.glob("*.toml"))


def test_a_plain_name_is_asked_of_ollama_which_is_not_there(shell: Shell) -> None:
    write_rows(shell.folder / "q.jsonl", rows(40))
    ran = shell("optimize", "--model", "llama3.2", "--data", "q.jsonl")
    assert ran.code == 1 and "Ollama at http://127.0.0.1:9 does not answer" in ran.err
    assert tomllib.loads((shell.folder / "llama3.2-q.toml").read_text())["backend"]["kind"] == "ollama"


def test_the_engine_is_guessed_from_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "hub" / "models--here--copied").mkdir(parents=True)
    (tmp_path / "folder").mkdir()
    guessed = {
        "transformers": ["folder", str(tmp_path / "folder"), "./missing", "here/copied", "owner/name"],
        "ollama": ["llama3.2", "qwen2.5:1.5b", "hf.co/owner/name:Q4_K_M"],
    }
    for engine, models in guessed.items():
        assert {model: guess_backend(model) for model in models} == dict.fromkeys(models, engine)
