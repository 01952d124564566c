"""A study on a real Ollama server; its settings, made a model there, write what the study's requests got."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import urllib.error
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from genopt.archive import Archive, load
from genopt.errors import SpecError
from genopt.export import export, settings
from genopt.export.create import create
from genopt.export.settings import Settings
from genopt.prompt import Front
from genopt.runner import optimize_async
from genopt.spec.read import make_study
from genopt.types import Message
from tests.real import engines
from tests.real.engines import Ollama

pytestmark = pytest.mark.real

QUICKSTART = Path(__file__).resolve().parents[2] / "studies" / "quickstart"
SYSTEM = 'Describe the walk.\n\n  "Quotes", # hashes, \\n and ünïcode stay.\t'


@pytest.fixture(scope="module")
def archive(ollama: Ollama, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """A greedy study with few-shot examples and a system prompt, to its end."""
    folder = tmp_path_factory.mktemp("study")
    lines = (QUICKSTART / "data.jsonl").read_text(encoding="utf-8").splitlines()[:24]
    table: dict[str, Any] = {
        "name": "walks",
        "storage": f"sqlite:///{folder / 'walks.db'}",
        "dataset": {"rows": [json.loads(line) for line in lines], "reference": "references", "holdout": 0.4},
        "prompt": {"system": "{{ style }}", "user": "Walk: {{ name }}\nLength: {{ length }}", "shots": 1},
        "backend": {
            "kind": "ollama",
            "model": "walks",
            "options": {"host": ollama.address, "num_thread": 1, "num_ctx": 1024},
        },
        "space": {
            "repetition_penalty": {"low": 1.0, "high": 1.3},
            "max_tokens": {"low": 8, "high": 48},
            "stop": {"choices": [["<|end|>", " and"], ["<|end|>", "\n"]]},
        },
        "baseline": {"temperature": 0.0, "style": SYSTEM},
        "scorers": {"facts": {"kind": "rouge_l"}},
        "search": {"sampler": "random", "pruner": "none"},
        "budget": {"trials": 3},
    }
    asyncio.run(optimize_async(make_study(table, folder=folder)))
    return load(f"sqlite:///{folder / 'walks.db'}#walks")


def stored(archive: Archive, number: str) -> dict[str, str]:
    """What a trial's requests got, by the example's id."""
    key = next(trial.config["key"] for trial in archive.trials if str(trial.number) == number)
    query = "SELECT example_id, text FROM genopt_generations WHERE config_key = ? AND phase = 'tune'"
    with closing(sqlite3.connect(archive.url.removeprefix("sqlite:///"))) as database:
        return dict(database.execute(query, (key,)).fetchall())


def asked(archive: Archive, ollama: Ollama, model: str, few: str) -> dict[str, str]:
    """What a model writes for every row whose few-shot example is not the row itself, asked with nothing but it."""
    with closing(sqlite3.connect(archive.url.removeprefix("sqlite:///"))) as database:
        rows = {id: json.loads(row) for id, row in database.execute("SELECT example_id, row FROM genopt_examples")}
    questions = {id: "Walk: {name}\nLength: {length}".format(**row["fields"]) for id, row in rows.items()}
    wanted = stored(archive, "0").keys()
    return {
        id: ollama.answer(model, [{"role": "user", "content": question}], {}).text
        for id, question in questions.items()
        if id in wanted and question != few
    }


def test_a_model_made_of_a_trial_writes_what_its_requests_got(archive: Archive, ollama: Ollama, tmp_path: Path) -> None:
    for number in ("0", "1"):
        found = settings(archive, number)
        few = found.front.messages[1].content
        assert found.system == SYSTEM and len(found.front.messages) == 3
        (tmp_path / "Modelfile").write_text(export(found, "ollama").text, encoding="utf-8")
        ollama.create(f"file-{number}", tmp_path)
        asyncio.run(create(found, f"api-{number}"))
        by_file, by_api = (asked(archive, ollama, f"{way}-{number}", few) for way in ("file", "api"))
        before = {id: text for id, text in stored(archive, number).items() if id in by_file}
        assert len(before) > 10 and len(set(before.values())) > 5
        assert by_file == before
        assert by_api == before


AWKWARD = [
    'say "',
    '"',
    '""',
    '"a"',
    "  spaces  ",
    "a\n\n",
    "\nb",
    "# no comment",
    "\\n",
    "tab\t|",
    "{{ .System }}",
    "🙂",
]


def test_texts_and_numbers_come_back_from_the_server_as_they_were(ollama: Ollama, tmp_path: Path) -> None:
    params = {
        "temperature": 1e-05,
        "top_k": 3,
        "max_tokens": 100000,
        "stop": ["<|end|>", '"', "\n\n", '"x'],
        "top_p": 0.5,
    }
    front = Front((Message("user", 'Why?"'), Message("assistant", '"Because\n')), "", ())
    for number, text in enumerate(AWKWARD):
        messages = (Message("system", text), *front.messages)
        whole = Front(messages if text.strip() else front.messages, "", ())
        found = Settings("t", "ollama", "ollama", "walks", {"num_ctx": 1024}, params, False, whole, {}, "")
        (tmp_path / "Modelfile").write_text(export(found, "ollama").text, encoding="utf-8")
        ollama.create(f"awkward-{number}", tmp_path)
        told = ollama.post("/api/show", {"model": f"awkward-{number}"})
        assert told["system"] == text
        assert told["messages"] == [{"role": m.role, "content": m.content} for m in front.messages]
        lines = [line.split(maxsplit=1) for line in told["parameters"].splitlines()]
        values = {name: float(value) for name, value in lines if name != "stop"}
        assert values == {"temperature": 1e-05, "top_k": 3, "num_predict": 100000, "top_p": 0.5, "num_ctx": 1024}
        stops = [json.loads(value) for name, value in lines if name == "stop"]
        assert sorted(stops) == sorted(params["stop"])


def test_vllm_takes_the_sampling_params(tmp_path: Path) -> None:
    python = engines.vllm_python()
    if python is None:
        pytest.skip(f"needs vLLM: let {engines.VLLM_PYTHON} name a Python that has it")
    params = {"temperature": 0.6, "top_k": 24, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.1, "max_tokens": 64}
    more = {"presence_penalty": 0.5, "frequency_penalty": -0.5, "min_tokens": 2, "stop": ["\n\n", '"']}
    front = Front((Message("system", SYSTEM),), "{{ q }}", ())
    output = {"schema": {"type": "object", "properties": {"ok": {"type": "boolean"}}}}
    found = Settings("t", "vllm", "vllm", "m", {}, params | more, False, front, output, "")
    tell = "import json\ntold = {name: getattr(params, name) for name in json.loads(input())}\n"
    tell += "print(json.dumps([told, params.structured_outputs.json, messages]))\n"
    (tmp_path / "params.py").write_text(export(found, "vllm").text + tell, encoding="utf-8")
    ran = subprocess.run(
        [python, str(tmp_path / "params.py")], input=json.dumps([*params, *more]), capture_output=True, text=True,
        timeout=300, check=False, env=os.environ | {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    messages = [{"role": "system", "content": SYSTEM}]
    assert json.loads(ran.stdout.splitlines()[-1]) == [params | more, output["schema"], messages]


def test_the_api_takes_what_a_modelfile_cannot_hold(ollama: Ollama) -> None:
    text = 'say """\nand\u00a0go\u200don'
    front = Front((Message("system", text),), "", ())
    found = Settings("t", "ollama", "ollama", "walks", {"host": ollama.address}, {"stop": []}, True, front, {}, "")
    with pytest.raises(SpecError, match="a Modelfile cannot hold the system prompt"):
        export(found, "ollama")
    asyncio.run(create(found, "anything"))
    told = ollama.post("/api/show", {"model": "anything"})
    assert told["system"] == text and "stop" not in told["parameters"]


def test_what_is_not_there_is_not_pulled_and_what_is_there_not_overwritten(ollama: Ollama) -> None:
    found = Settings("t", "ollama", "ollama", "walks", {}, {"top_k": 3}, False, Front((), "", ()), {}, "")
    absent = Settings("t", "ollama", "ollama", "absent", {}, {"top_k": 3}, False, Front((), "", ()), {}, "")
    host = ollama.address
    with pytest.raises(SpecError, match=r"has no model 'absent'\. Get it with: ollama pull absent"):
        asyncio.run(create(absent, "made", host=host))
    assert asyncio.run(create(found, "made", host=host)) == f"Ollama at {host}"
    with pytest.raises(SpecError, match=r"has a model of that name\. Overwrite it with --force"):
        asyncio.run(create(found, "made", host=host))
    asyncio.run(create(found, "made", host=host, replace=True))
    assert "top_k" in ollama.post("/api/show", {"model": "made"})["parameters"]
    with pytest.raises(urllib.error.HTTPError):  # 404: it was not pulled either
        ollama.post("/api/show", {"model": "absent"})
