"""Settings as other programs read them: every value arrives, what cannot be said is named, texts survive exactly."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genopt.archive import load
from genopt.errors import SpecError
from genopt.export import WRITERS, export, notes, settings
from genopt.export.settings import Settings
from genopt.export.targets import TARGETS
from genopt.prompt import Front
from genopt.types import BackendInfo, Domain, Message
from tests.commands import Shell
from tests.studies import run
from tests.toy import ToyBackend, study

PARAMS: dict[str, Any] = {
    "temperature": 0.35,
    "top_k": 24,
    "top_p": 0.82,
    "min_p": 1e-05,
    "typical_p": 1.0,
    "repetition_penalty": 1.04,
    "repeat_last_n": 64,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "max_tokens": 128,
    "num_keep": 4,
    "stop": ["<|im_end|>", '"', "\n\n"],
}
FRONT = Front(
    (
        Message("system", "You are terse.\nAnswer in JSON."),
        Message("user", "1 + 1?"),
        Message("assistant", "2"),
    ),
    "{{ question }}",
    (),
)


def of_ollama(**changes: Any) -> Settings:
    found = Settings(
        "sums, the winner (trial 3)", "ollama", "ollama", "qwen2.5:1.5b", {"num_ctx": 8192, "use_mmap": False}, PARAMS,
        False, FRONT, {}, "",
    )  # fmt: skip
    return replace(found, **changes)


def of_transformers(**changes: Any) -> Settings:
    params = {
        "temperature": 0.6, "top_k": 0, "top_p": 0.9, "min_p": 0.1, "typical_p": 1.0, "repetition_penalty": 1.1,
        "no_repeat_ngram_size": 0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "num_beams": 1,
        "length_penalty": 1.0, "max_tokens": 64, "min_tokens": 0, "stop": [],
    } | changes.pop("params", {})  # fmt: skip
    return of_ollama(kind="transformers", engine="transformers", model="model", options={}, params=params, **changes)


# --- Modelfile


def parsed(text: str) -> list[tuple[str, str]]:
    """(instruction, argument) as Ollama's parser reads them: comments at line starts, texts between triple quotes."""
    found: list[tuple[str, str]] = []
    lines = iter(text.split("\n"))
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        head, opened, rest = line.partition('"""')
        if not opened:
            name, _, value = line.partition(" ")
            found.append((name, value))
            continue
        while not (rest.rstrip().endswith('"""')):
            rest += "\n" + next(lines)
        name, _, before = head.strip().partition(" ")
        found.append((name, f"{before} {rest.rstrip()[:-3]}".lstrip() if before else rest.rstrip()[:-3]))
    return found


def test_a_modelfile_says_everything() -> None:
    made = export(of_ollama(), "ollama")
    assert made.text.startswith("# sums, the winner (trial 3)\nFROM qwen2.5:1.5b\n")
    assert parsed(made.text) == [
        ("FROM", "qwen2.5:1.5b"),
        ("PARAMETER", "temperature 0.35"),
        ("PARAMETER", "top_k 24"),
        ("PARAMETER", "top_p 0.82"),
        ("PARAMETER", "min_p 1e-05"),
        ("PARAMETER", "typical_p 1.0"),
        ("PARAMETER", "repeat_penalty 1.04"),
        ("PARAMETER", "repeat_last_n 64"),
        ("PARAMETER", "presence_penalty 0.0"),
        ("PARAMETER", "frequency_penalty 0.0"),
        ("PARAMETER", "num_predict 128"),
        ("PARAMETER", "num_keep 4"),
        ("PARAMETER", "stop <|im_end|>"),
        ("PARAMETER", 'stop "'),
        ("PARAMETER", "stop \n\n"),
        ("PARAMETER", "num_ctx 8192"),
        ("PARAMETER", "use_mmap false"),
        ("SYSTEM", "You are terse.\nAnswer in JSON."),
        ("MESSAGE", "user 1 + 1?"),
        ("MESSAGE", "assistant 2"),
    ]
    assert 'PARAMETER stop """<|im_end|>"""' in made.text  # never bare: a text may begin with a quote
    assert made.notes == ('ask with the study\'s user prompt: "{{ question }}"',)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('say """\nthen stop', 'a line of it ends in """'),
        ('say """  \nthen stop', 'a line of it ends in """'),
        ("a\u00a0b", "U+00A0 (NO-BREAK SPACE)"),
        ("fam\u200dily", "U+200D (ZERO WIDTH JOINER)"),
        ("a\rb", "U+000D (a control character)"),
    ],
)
def test_what_a_modelfile_cannot_hold_is_refused_with_the_way_that_can(text: str, why: str) -> None:
    front = replace(FRONT, messages=(Message("system", text),))
    with pytest.raises(SpecError) as error:
        export(of_ollama(front=front), "ollama")
    assert str(error.value).startswith("a Modelfile cannot hold the system prompt: ") and why in str(error.value)
    body = json.loads(error.value.hint.partition("/api/create: ")[2])
    assert body["system"] == text and body["from"] == "qwen2.5:1.5b" and body["parameters"]["num_predict"] == 128


def test_what_a_model_cannot_hold_is_named() -> None:
    options = {"think": False, "shift": True, "raw": False}
    made = export(of_ollama(options=options, output={"schema": {"type": "object"}}, images="photo"), "ollama")
    told = "\n".join(made.notes)
    for needle in ("think: false is sent with each request", "shift: true", "column photo", "the study's schema"):
        assert needle in told
    assert "raw" not in told
    emptied = of_ollama(params=PARAMS | {"stop": []}, own_stop=True)
    assert any("--create can" in note for note in notes(emptied, "ollama"))
    assert not any("--create can" in note for note in notes(emptied, "ollama", created=True))
    shown = of_ollama(front=replace(FRONT, messages=(Message("user", "this?", ("/x.png",)), Message("assistant", "x"))))
    assert any("cannot hold their images" in note for note in export(shown, "ollama").notes)
    assert "MESSAGE" not in export(shown, "ollama").text


def test_loose_ends_of_the_prompt_are_named_by_every_target() -> None:
    loose = of_ollama(front=replace(FRONT, loose=("the system message, which differs from row to row (topic)",)))
    for target in WRITERS:
        assert "left out: the system message, which differs from row to row (topic)" in export(loose, target).notes


# --- the other targets


def test_sampling_params_are_python() -> None:
    made = export(of_transformers(output={"choices": ["yes", "no"]}), "vllm")
    calls: list[dict[str, Any]] = []
    vllm = {"SamplingParams": lambda **given: calls.append(given), "StructuredOutputsParams": dict}
    source = "\n".join(line for line in made.text.splitlines() if not line.startswith("from vllm"))
    exec(source, vllm)
    assert calls == [
        {
            "temperature": 0.6, "top_k": 0, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.1,
            "presence_penalty": 0.0, "frequency_penalty": 0.0, "max_tokens": 64, "min_tokens": 0, "stop": [],
            "structured_outputs": {"choice": ["yes", "no"]},
        }
    ]  # fmt: skip
    assert vllm["messages"] == [{"role": m.role, "content": m.content} for m in FRONT.messages]


def test_a_generation_config_samples_or_does_not() -> None:
    sampled = json.loads(export(of_transformers(), "transformers").text)
    assert sampled == {
        "do_sample": True, "temperature": 0.6, "top_k": 0, "top_p": 0.9, "min_p": 0.1, "typical_p": 1.0,
        "repetition_penalty": 1.1, "no_repeat_ngram_size": 0, "num_beams": 1, "length_penalty": 1.0,
        "max_new_tokens": 64, "min_new_tokens": 0,
    }  # fmt: skip
    greedy = export(of_transformers(params={"temperature": 0.0, "stop": ["."]}), "transformers")
    assert json.loads(greedy.text).items() >= {"do_sample": False, "max_new_tokens": 64}.items()
    assert not json.loads(greedy.text).keys() & {"temperature", "top_k", "top_p", "min_p", "typical_p"}
    assert json.loads(greedy.text)["stop_strings"] == ["."]
    assert any("tokenizer=..." in note for note in greedy.notes)
    assert any("eos_token_id" in note for note in greedy.notes)


def test_request_fields_of_openai() -> None:
    made = export(of_ollama(output={"schema": {"type": "object"}}), "openai")
    body = json.loads(made.text)
    assert body.items() >= {"model": "qwen2.5:1.5b", "temperature": 0.35, "top_p": 0.82}.items()
    assert body["messages"][0] == {"role": "system", "content": FRONT.messages[0].content}
    assert body["messages"][-1] == {"role": "user", "content": "{{ question }}"}
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert body["max_completion_tokens"] == 128 and body["stop"] == PARAMS["stop"] and "seed" not in body
    told = "\n".join(made.notes)
    for name in ("top_k: 24", "min_p: 1e-05", "repetition_penalty: 1.04", "repeat_last_n: 64"):
        assert f"OpenAI's protocol has no {name}" in told
    assert "typical_p" not in told and "num_keep" not in told  # they do nothing
    many = of_ollama(params=PARAMS | {"stop": list("abcde")})
    assert any("OpenAI takes 4 strings, these are 5" in note for note in export(many, "openai").notes)
    server = {"base_url": "http://127.0.0.1:8000/v1"}
    local = of_ollama(kind="openai", engine="vllm", options=server)
    assert json.loads(export(local, "openai").text)["max_tokens"] == 128


def test_flags_of_llama_cpp_keep_the_order_of_the_study() -> None:
    made = export(of_transformers(output={"schema": {"type": "object"}}, params={"stop": ["."]}), "llama.cpp")
    words = shlex.split(made.text.replace("\\\n", " "))
    flags = dict(zip(words[::2], words[1::2], strict=True))
    assert flags == {
        "--temp": "0.6", "--top-k": "0", "--top-p": "0.9", "--min-p": "0.1", "--typical": "1.0",
        "--repeat-penalty": "1.1", "--repeat-last-n": "-1", "--presence-penalty": "0.0", "--frequency-penalty": "0.0",
        "--predict": "64", "--json-schema": '{"type": "object"}',
        "--samplers": "penalties;temperature;top_k;top_p;min_p;typ_p",
    }  # fmt: skip
    told = "\n".join(made.notes)
    assert "another order" not in told and "takes no flag for ['.']" in told


def test_samplers_of_llama_cpp_itself_stay_on() -> None:
    params = {"temperature": 0.7, "dry_multiplier": 0.8, "xtc_probability": 0.5, "top_n_sigma": 1.5, "max_tokens": 9}
    own = of_ollama(kind="openai", engine="llama.cpp", options={}, params=params)
    made = export(own, "llama.cpp")
    assert "--samplers" not in made.text  # a list without dry and xtc would turn them off
    assert "--dry-multiplier 0.8" in made.text and "--top-nsigma 1.5" in made.text
    assert not any("is left out" in note for note in made.notes)
    off = replace(own, params={"temperature": 0.7, "top_n_sigma": -1.0})
    assert not any("top_n_sigma" in note for note in notes(off, "vllm"))


def test_what_every_request_carried_besides_is_said() -> None:
    options = {"extra": {"reasoning_effort": "low"}, "headers_env": {"api-key": "MY_KEY"}, "project": "p1"}
    hosted = of_ollama(kind="openai", engine="openai", options=options, params={"temperature": 0.5, "max_tokens": 9})
    assert json.loads(export(hosted, "openai").text)["reasoning_effort"] == "low"
    _, body, headers = sent(export(hosted, "curl").text)
    assert body["reasoning_effort"] == "low" and {"api-key: $MY_KEY", "OpenAI-Project: p1"} <= set(headers)
    assert any("reasoning_effort" in note for note in notes(hosted, "vllm"))
    assert not any("reasoning_effort" in note for note in notes(hosted, "openai"))


def sent(text: str) -> tuple[str, dict[str, Any], list[str]]:
    """URL, body and headers of a curl line."""
    words = shlex.split(text.replace("\\\n", " "))
    assert words[0] == "curl"
    return (
        words[1],
        json.loads(words[words.index("-d") + 1]),
        [w for w, b in zip(words[1:], words, strict=False) if b == "-H"],
    )


def test_a_curl_line_asks_the_engine_as_the_study_did() -> None:
    options = {"host": "gpu-box:11434", "num_ctx": 8192, "think": False}
    url, body, _ = sent(export(of_ollama(options=options, output={"schema": {"type": "object"}}), "curl").text)
    assert url == "http://gpu-box:11434/api/chat"
    assert body["options"].items() >= {"num_predict": 128, "repeat_penalty": 1.04, "num_ctx": 8192, "top_k": 24}.items()
    assert "seed" not in body["options"] and body["stream"] is False and body["think"] is False
    assert body["format"] == {"type": "object"} and body["messages"][-1]["content"] == "{{ question }}"

    base = {"base_url": "http://127.0.0.1:8000/v1/", "api_key_env": "MY_KEY"}
    params = {"temperature": 0.5, "top_k": 7, "max_tokens": 9, "stop": []}
    served = of_ollama(kind="openai", engine="vllm", options=base, params=params)
    url, body, headers = sent(export(served, "curl").text)
    assert url == "http://127.0.0.1:8000/v1/chat/completions"
    assert body.items() >= {"temperature": 0.5, "top_k": 7, "max_tokens": 9}.items() and "stop" not in body
    assert "Authorization: Bearer $MY_KEY" in headers
    embedded = of_ollama(kind="vllm", engine="vllm", options={}, params=params)
    url, body, headers = sent(export(embedded, "curl").text)
    assert url == "http://127.0.0.1:8000/v1/chat/completions" and body["top_k"] == 7 and len(headers) == 1
    with pytest.raises(SpecError, match="transformers works inside the process and has no address"):
        export(of_transformers(), "curl")


# --- what means something else there


def test_another_order_of_temperature_and_truncation_is_said_where_it_matters() -> None:
    def order(found: Settings, target: str) -> bool:
        return any("another order" in note for note in notes(found, target))

    assert order(of_transformers(), "ollama") and order(of_transformers(), "vllm") and order(of_ollama(), "vllm")
    assert order(of_ollama(), "openai")
    assert not order(of_ollama(), "ollama") and not order(of_ollama(), "llama.cpp")
    assert not order(of_transformers(params={"temperature": 0.0}), "ollama")
    plain = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
    assert not order(of_transformers(params=plain), "ollama")
    told = next(note for note in notes(of_transformers(), "ollama") if "another order" in note)
    assert "transformers applies temperature, top_k, top_p, min_p, typical_p" in told
    assert "Ollama top_k, typical_p, top_p, min_p, temperature" in told


def test_what_the_target_would_do_by_itself_is_turned_off() -> None:
    bare = of_ollama(kind="openai", engine="vllm", options={}, params={"temperature": 0.7, "max_tokens": 9})
    made = dict(line.split()[1:] for line in export(bare, "ollama").text.splitlines() if line.startswith("PARAMETER"))
    off = {"top_k": "0", "top_p": "1.0", "repeat_penalty": "1.0", "repeat_last_n": "-1"}
    assert made == {"temperature": "0.7", "num_predict": "9", **off}
    own = replace(bare, kind="ollama", engine="ollama")
    assert "top_k" not in export(own, "ollama").text  # then the study's server had none either
    assert any("FROM qwen2.5:1.5b: the model as vllm names it" in note for note in notes(bare, "ollama"))
    assert not any("FROM" in note for note in notes(replace(bare, renamed=True), "ollama"))


def test_penalties_that_count_other_tokens_and_values_out_of_range_are_said() -> None:
    counted = of_transformers(params={"presence_penalty": 0.5, "temperature": 3.0, "no_repeat_ngram_size": 3})
    told = "\n".join(notes(counted, "ollama"))
    assert "presence_penalty: transformers does not count the prompt's tokens, Ollama does" in told
    assert "Ollama has no no_repeat_ngram_size: 3 is left out" in told and "num_beams" not in told
    assert "vLLM takes temperature from 0 to 2: it will refuse 3.0" in notes(counted, "vllm")
    assert any(
        "raises the temperature 0.005" in n for n in notes(of_transformers(params={"temperature": 0.005}), "vllm")
    )
    beams = of_transformers(params={"num_beams": 4, "length_penalty": 1.0})
    assert {"vLLM has no num_beams: 4 is left out", "vLLM has no length_penalty: 1.0 is left out"} <= {
        *notes(beams, "vllm")
    }


def test_every_parameter_of_a_target_is_written_by_it() -> None:
    for name, target in TARGETS.items():
        params = {ours: 7 if ours != "stop" else ["."] for ours in target.names}
        text = export(of_ollama(params=params, options={}), name).text
        theirs = dict(target.names) | ({"max_tokens": "max_completion_tokens"} if name == "openai" else {})
        assert [ours for ours, word in theirs.items() if word not in text] == []


# --- from a stored study


@pytest.fixture
def searched(tmp_path: Path) -> Path:
    """A study with a switch, prompt variables, few-shot examples and a system prompt of its own, to its verdict."""
    table = study(
        tmp_path,
        count=60,
        prompt={"system": "Answer. {{ style }}", "user": "{{ question }}", "shots": 2},
        baseline={"style": "Be brief.", "temperature": 1.4},
    )
    table["space"] |= {"style": {"choices": ["", "Be brief.", "Think."]}}
    table["budget"] = {"trials": 12}
    assert run(table, tmp_path).decided()
    return tmp_path / "toy.db"


def test_settings_are_what_the_requests_carried(searched: Path) -> None:
    archive = load(f"sqlite:///{searched}#toy")
    assert archive.verdict is not None and archive.verdict["verdict"] == "improved"
    best = settings(archive)
    assert best.params == {n: v for n, v in archive.verdict["params"].items() if n not in ("style", "decoding")}
    assert best.title == f"toy, the winner (trial {archive.verdict['trial']})" and best.model == "toy"
    assert best.system == f"Answer. {archive.verdict['params']['style']}"
    asked = [turn.content for turn in best.front.messages[1:]]
    assert len(asked) == 4 and asked[1::2] == ["yes", "yes"] and all(q.startswith("Is ") for q in asked[::2])
    baseline = settings(archive, "baseline")
    assert baseline.system == "Answer. Be brief." and baseline.params["temperature"] == 1.4
    greedy = next(t for t in archive.trials if t.config.get("params", {}).get("decoding") == "greedy")
    trial = settings(archive, str(greedy.number), model="other")
    assert (trial.params["temperature"], trial.model, trial.renamed) == (0.0, "other", True)
    assert trial.params["max_tokens"] == 64  # the baseline's, which the trial did not name
    with pytest.raises(SpecError, match="there is no trial 999"):
        settings(archive, "999")


def test_without_an_improvement_the_best_is_the_baseline(tmp_path: Path) -> None:
    flat = study(tmp_path, backend={"kind": "tests.toy:ToyBackend", "model": "toy", "options": {"flat": True}})
    assert run(flat, tmp_path).decided().verdict != "improved"
    assert settings(load(f"sqlite:///{tmp_path / 'toy.db'}#toy")).title == "toy, the baseline"


class TwoModels(ToyBackend):
    """Two models of which the better one is not the study's; requests carry stop strings."""

    async def open(self) -> BackendInfo:
        info = await super().open()
        params = {**info.params, "stop": Domain("strings", "ends")}
        return replace(info, identity={"engine": "ollama"}, params=params, defaults={**info.defaults, "stop": ("<e>",)})


@pytest.mark.parametrize("baseline", [{}, {"stop": ["<e>"]}])
def test_another_model_keeps_the_stop_strings_of_its_own(tmp_path: Path, baseline: dict[str, Any]) -> None:
    options = {"models": {"toy": 0.0, "better": 0.5}}
    table = study(tmp_path, baseline=baseline, space={"model": {"choices": ["toy", "better"]}})
    table["backend"] = {"kind": "tests.test_export:TwoModels", "model": "toy", "options": options}
    assert run(table, tmp_path).decided().verdict == "improved"
    found = settings(load(f"sqlite:///{tmp_path / 'toy.db'}#toy"))
    assert found.model == "better" and "model" not in found.params
    assert found.params.get("stop") == baseline.get("stop")  # what the user wrote down is sent to every model
    told = "stop: the model's own stop strings in Ollama (ollama show) do not go along. Add them"
    assert (told in notes(found, "vllm")) == (not baseline) and told not in notes(found, "ollama")


# --- the command


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, monkeypatch, capsys)


def test_the_command_writes_texts_to_stdout_or_a_file_and_notes_to_stderr(shell: Shell, searched: Path) -> None:
    where = f"{searched}#toy"
    ran = shell("export", where, "--to", "ollama", "--model", "llama3.2")
    assert ran.code == 0 and "\nFROM llama3.2\n" in ran.out and "PARAMETER num_predict 64" in ran.out
    assert 'note: ask with the study\'s user prompt: "{{ question }}"' in ran.err and "note" not in ran.out
    made = shell.folder / "params.py"
    assert shell("export", where, "--to", "vllm", "-o", made, "--trial", "baseline").code == 0
    assert "temperature=1.4" in made.read_text()
    again = shell("export", where, "--to", "vllm", "-o", made)
    assert again.code == 2 and "--force" in again.err and "temperature=1.4" in made.read_text()
    assert shell("export", where, "--to", "vllm", "-o", made, "--force").code == 0


def test_the_command_refuses_what_does_not_go_together(shell: Shell, searched: Path) -> None:
    where = f"{searched}#toy"
    for arguments, words in (
        (["--to", "vllm", "--create", "x"], "--create makes a model in Ollama"),
        (["--host", "http://x"], "--host is for --create"),
        ([], "toy reads no settings. Take one of ollama, vllm"),
        (["--to", "ollama", "--trial", "77"], "there is no trial 77"),
    ):
        ran = shell("export", where, *arguments)
        assert ran.code == 2 and words in ran.err and ran.out == ""


def test_an_unfinished_study_has_no_best(shell: Shell) -> None:
    study_file = shell.write(
        shell.table(backend={"kind": "tests.toy:ToyBackend", "model": "toy", "options": {"broken_after": 20}})
    )
    assert shell("optimize", study_file, "-q").code == 1
    ran = shell("export", study_file, "--to", "vllm")
    assert ran.code == 2 and "has no verdict yet" in ran.err


def test_a_server_that_does_not_answer_is_told_with_the_way_to_start_it(shell: Shell, searched: Path) -> None:
    ran = shell("export", f"{searched}#toy", "--create", "tuned", "--model", "m", "--host", "http://127.0.0.1:9")
    assert ran.code == 1 and "Ollama at http://127.0.0.1:9 does not answer" in ran.err and "ollama serve" in ran.err
    same = shell("export", f"{searched}#toy", "--create", "m:latest", "--model", "m", "--host", "http://127.0.0.1:9")
    assert same.code == 2 and "is the model that these settings build on" in same.err


@pytest.mark.parametrize("changes", [{}, {"temperature": 0.0}, {"stop": ["."], "num_beams": 2}])
def test_the_embedded_engine_reads_a_generation_config_as_it_was_meant(changes: dict[str, Any]) -> None:
    pytest.importorskip("transformers", reason="the transformers extra is not installed")
    from transformers import GenerationConfig

    from genopt.backends._hf_loading import _defaults

    meant = of_transformers(params=changes)
    read = _defaults(GenerationConfig(**json.loads(export(meant, "transformers").text)))
    cut = ("top_k", "top_p", "min_p", "typical_p") if changes.get("temperature") == 0 else ()  # inert, and left out
    assert {n: v for n, v in read.items() if n not in cut} == {
        n: tuple(v) if isinstance(v, list) else v for n, v in meant.params.items() if n not in cut
    }
