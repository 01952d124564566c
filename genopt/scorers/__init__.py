"""Owns how a scorer of the study file becomes an object, and the key under which its scores are stored."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

from genopt.errors import GenoptError, SpecError
from genopt.plugins import load_object
from genopt.spec.scorers import Function, Plugin, ScorerSpec
from genopt.types import Scorer

KINDS = {
    "exact_match": "genopt.scorers.text:ExactMatch",
    "contains": "genopt.scorers.patterns:Contains",
    "regex": "genopt.scorers.patterns:Regex",
    "numeric": "genopt.scorers.patterns:Numeric",
    "token_f1": "genopt.scorers.text:TokenF1",
    "rouge_l": "genopt.scorers.text:RougeL",
    "rouge_n": "genopt.scorers.text:RougeN",
    "chrf": "genopt.scorers.text:Chrf",
    "bleu": "genopt.scorers.text:Bleu",
    "levenshtein": "genopt.scorers.text:Levenshtein",
    "length": "genopt.scorers.text:Length",
    "json_schema": "genopt.scorers.json_schema:JsonSchema",
    "diversity": "genopt.scorers.diversity:Diversity",
    "distinct": "genopt.scorers.diversity:Distinct",
    "consistency": "genopt.scorers.diversity:Consistency",
    "embedding": "genopt.scorers.embedding:Embedding",
    "judge": "genopt.scorers.judge:Judge",
    "human": "genopt.scorers.human:Human",
}
FUNCTION = "genopt.scorers.function:Function"
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def make_scorer(name: str, spec: ScorerSpec, folder: Path, *, seed: int = 0) -> Scorer:
    """The scorer that a table of the study file describes; `seed` is the study's. Raises SpecError when it cannot be
    made."""
    made: Any
    options = spec.model_dump(by_alias=True, exclude={"kind"})
    if isinstance(spec, (Function, Plugin)):
        function = spec.function if isinstance(spec, Function) else spec.kind
        made = load_object(function, folder, key=f"scorers.{name}") if isinstance(function, str) else function
        options.pop("function", None)
        if not inspect.isclass(made):
            if options:
                raise SpecError(
                    f"scorers.{name}: a function takes no keys, but {', '.join(options)} is given. Drop them"
                )
            made, options = load_object(FUNCTION, folder, key=f"scorers.{name}"), {"function": made}
    else:
        made = load_object(KINDS[spec.kind], folder, key=f"scorers.{name}")
        if spec.kind == "embedding" and spec.engine != "ollama" and (folder / spec.model).is_dir():
            options["model"] = str(folder / str(options["model"]))
        if spec.kind == "judge":
            options |= {"folder": folder, "seed": seed}
    try:
        scorer = made(name=name, **options)
    except TypeError as error:
        raise SpecError(f"scorers.{name}: {error}. Check its keys") from error
    except GenoptError:
        raise
    except Exception as error:
        raise SpecError(
            f"scorers.{name}: cannot be made: {type(error).__name__}: {error}. Check its keys, or correct the class"
        ) from error
    if not isinstance(scorer, Scorer):
        raise SpecError(f"scorers.{name}: is no scorer: it needs name, needs, score and aclose")
    return scorer


def scorer_key(spec: ScorerSpec, scorer: Scorer, folder: Path, *, repeats: int) -> str:
    """What a stored score depends on besides its generation: kind, options, a function's source, what an attached
    scorer says it is (`identity`), and the number of samples seen together where the scorer looks at them together."""
    described: dict[str, Any] = spec.model_dump(mode="python", by_alias=True, exclude=getattr(spec, "INERT", None))
    if identity := getattr(scorer, "identity", None):
        described["identity"] = dict(identity)
    if isinstance(spec, (Function, Plugin)):
        function = spec.function if isinstance(spec, Function) else spec.kind
        loaded = load_object(function, folder, key=f"scorers.{scorer.name}") if isinstance(function, str) else function
        named = getattr(loaded, "__qualname__", None) or _ADDRESS.sub("", repr(loaded))  # a partial, an instance
        described["function"] = f"{getattr(loaded, '__module__', '')}:{named}"
        described["source"] = _source(loaded)
    if "repeats" in scorer.needs:
        described["repeats"] = repeats
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()


def _source(loaded: Any) -> str:
    """The source text of the user's scorer, so that an edited scorer is another scorer; "" where there is none."""
    loaded = getattr(loaded, "func", loaded)  # what a functools.partial calls
    if not inspect.isclass(loaded) and not inspect.isroutine(loaded):
        loaded = type(loaded)
    try:
        return inspect.getsource(sys.modules[loaded.__module__] if inspect.isclass(loaded) else loaded)
    except (OSError, TypeError, KeyError):
        return ""
