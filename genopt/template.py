"""Owns the study file that `genopt init` writes: the shortest that runs, with the rest of the keys as comments."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

from genopt._templates import a_name
from genopt.backends._http import Server
from genopt.backends._ollama_options import options_of
from genopt.dataset import load
from genopt.errors import BackendError

USER_FIELDS = ("input", "prompt", "question", "instruction", "text", "query")
NEEDS_MORE = {
    "regex": 'pattern = "[A-Z]+"',
    "length": "max = 60",
    "function": 'function = "scorer:score"          # def score(example, text) -> float, in scorer.py beside this file',
    "judge": 'rubric = "Is the answer right and helpful?"',
    "human": 'question = "Would you send this answer?"',
}
OPTIONS = {
    "ollama": "{ num_ctx = 4096 }",
    "vllm": "{ max_model_len = 4096 }",
    "openai": '{ base_url = "http://127.0.0.1:8000/v1" }',
}
COMPARES_SAMPLES = ("diversity", "distinct", "consistency")


def guess_backend(model: str) -> str:
    """The engine that most likely means a model of this name: transformers for a folder, a model of the hub that was
    downloaded, and any other owner/name that no Ollama server has; ollama for a plain name and what its server has."""
    if Path(model).expanduser().is_dir() or model.startswith((".", "/", "~")):
        return "transformers"
    owner, slash, _ = model.partition("/")
    if not slash or "." in owner:  # hf.co/owner/name: Ollama's way to name a registry
        return "ollama"
    hub = os.environ.get("HF_HUB_CACHE") or f"{os.environ.get('HF_HOME') or '~/.cache/huggingface'}/hub"
    if (Path(hub).expanduser() / f"models--{model.replace('/', '--')}").is_dir():
        return "transformers"
    return "ollama" if asyncio.run(_in_ollama(model)) else "transformers"


async def _in_ollama(model: str) -> bool:
    """True when an Ollama server answers and has the model."""
    server = Server("Ollama", options_of({}).url, timeout=5.0, patience=0.0)
    try:
        await server.send_json("/api/show", {"model": model})
        return True
    except BackendError:
        return False
    finally:
        await server.aclose()


def guess_fields(data: str, reference: str | None = None) -> tuple[list[str], bool]:
    """The first row's texts, the likeliest prompt first: a usual name, else the longest texts (none where rows bring
    their own messages), the others as far as a template can name them; and whether rows carry references. Raises
    SpecError."""
    found = load(path=data, folder=Path.cwd(), limit=20, reference=reference)
    example = found.examples[0]
    if "messages" in example.fields:
        return [], any(e.references for e in found.examples)
    names = [name for name in example.fields if name not in ("id", "group")]
    texts = [name for name in names if isinstance(example.fields[name], str)]
    texts = [name for name in texts if example.fields[name] not in example.references]
    length = {name: sum(len(str(e.fields.get(name, ""))) for e in found.examples) for name in texts}
    texts.sort(key=lambda n: (USER_FIELDS.index(n) if n in USER_FIELDS else len(USER_FIELDS), -length[n]))
    return [n for n in texts if n == texts[0] or a_name(n) == n], any(e.references for e in found.examples)


def beside(path: str, folder: Path) -> str:
    """A path as a study file in `folder` has to write it; a hub id stays as it is."""
    found = Path(path).expanduser()
    if not found.exists() or found.is_absolute():
        return str(found) if found.exists() else path
    return Path(os.path.relpath(found, folder)).as_posix()


def quote(text: str) -> str:
    """A text as TOML writes it."""
    return json.dumps(text, ensure_ascii=False)


def study_file(
    name: str,
    data: str,
    model: str,
    scorer: str,
    backend: str,
    fields: list[str],
    reference: bool | str,
    *,
    prompt: str | None = None,
    trials: int = 40,
) -> str:
    """The text of a study file. `reference` is the key of the acceptable answers, or whether a usual one was found;
    `prompt` stands in for the likeliest of the `fields`."""
    column = fields[0] if fields else "question"
    field = a_name(column)
    renamed = ""
    if field != column and prompt is None:  # as it is no template can name it
        renamed = f"map = {{ {field if field.isascii() else quote(field)} = {quote(column)} }}\n"
    question = quote("{{ " + field + " }}" if prompt is None else prompt)
    user = (
        f"user = {question}"
        if fields or prompt is not None
        else f"# user = {question}            # without it a row's messages are the prompt"
    )
    none_yet = "" if reference else " (none found so far)"
    answers = f'# reference = "answer"                 # key of the acceptable answers{none_yet}'
    if isinstance(reference, str):
        answers = f"reference = {quote(reference)}"
    options = OPTIONS.get(backend, "{}")
    more = f"\n{NEEDS_MORE[scorer]}" if scorer in NEEDS_MORE else ""
    others = f"      # also: {', '.join(fields[1:6])}" if len(fields) > 1 else ""
    repeats = (
        "\n\n[search]\nrepeats = 2                            # samples of each example, which the scorer compares"
    )
    return f"""# A genopt study. genopt check {name}.toml shows its bill, genopt optimize {name}.toml runs it.
name = {quote(name)}
# storage = "sqlite:///{name}.db"  # default; or postgresql://...
seed = 0

[dataset]
path = {quote(data)}
{renamed}{answers}
# group = "document"                   # rows that belong together stay on one side of the split
# holdout = 0.3                        # rows the search never sees; the claim is made on them. Below 60 rows the
                                       # default is cross-fitting: all are searched on, a choice is tried on later ones
# limit = 500

[prompt]                               # Jinja2 over the row's fields
# system = "You are terse."
{user}{others}
# shots = 2                            # few-shot examples drawn from the tune rows

[backend]
kind = {quote(backend)}
model = {quote(model)}
# concurrency = 8                      # requests in flight; default: what the engine says
# options = {options:<29}# see the README; parameters: genopt params {backend}

# Without [space] the engine's own recommended ranges are searched.
# [space]
# max_tokens = {{ low = 64, high = 512, step = 64 }}
# [space.decoding.greedy]              # a table of tables is a switch: a trial takes one branch
# temperature = 0.0
# [space.decoding.sampling]
# temperature = {{ low = 0.1, high = 1.5 }}
# top_p = {{ low = 0.5, high = 1.0 }}

# Without [baseline] the model's own settings are what has to be beaten.
# [baseline]
# temperature = 0.8

[scorers.quality]
kind = {quote(scorer)}{more}{repeats if scorer in COMPARES_SAMPLES else ""}

# [[objectives]]
# maximize = "quality"
# [[constraints]]
# metric = "completion_tokens"
# at_most = 200.0                      # or at_least
# confidence = 0.9                     # how sure the holdout must be of it for a winner to be claimed

[budget]
trials = {trials}
# generations = 20000  # calls of the engine, also those that fail
# tokens = 2000000
# hours = 2.0  # of the study: workers that share them do not use them up sooner
"""
