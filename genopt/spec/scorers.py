"""Owns the keys of every scorer's table. What a scorer does lives in genopt/scorers: these are its keywords."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, WithJsonSchema, model_validator

from genopt.spec._base import Table
from genopt.spec.human import Human
from genopt.spec.judge import Judge


class ExactMatch(Table):
    """1 when the text equals a reference."""

    kind: Literal["exact_match"]
    normalize: bool = True
    """Ignore case, punctuation, articles and spacing."""


class Contains(Table):
    """Texts that must occur, from `values`, from a field of the row, or the references."""

    kind: Literal["contains"]
    values: list[str] | None = None
    """Texts to look for; alternatives within one are separated by |."""
    field: str | None = None
    """The row's field that holds them (a text or a list)."""
    mode: Literal["all", "any", "fraction"] = "all"
    """All of them, any of them, or the fraction that occurs."""
    case_sensitive: bool = False
    """Tell capitals apart."""


class Regex(Table):
    """A pattern that must be found; with `group`, the group of the last match is compared with the references."""

    kind: Literal["regex"]
    pattern: str
    """A regular expression."""
    flags: str = ""
    """Letters of inline flags, e.g. "is"."""
    group: int | str | None = None
    """The group to extract and compare."""
    match: Literal["last", "any"] = "last"
    """Which match counts when a group is compared."""


class Numeric(Table):
    """1 when the last number of the text equals the last number of a reference."""

    kind: Literal["numeric"]
    tolerance: Annotated[float, Field(ge=0)] = 1e-6
    """Largest difference, absolute or relative."""
    which: Literal["last", "first"] = "last"
    """Which number of the text counts."""


class TokenF1(Table):
    """F1 over words, as SQuAD has it; best over the references."""

    kind: Literal["token_f1"]


class RougeL(Table):
    """ROUGE-L F1 (longest common subsequence of words); best over the references."""

    kind: Literal["rouge_l"]


class RougeN(Table):
    """ROUGE-N F1 (shared n-grams of words); best over the references."""

    kind: Literal["rouge_n"]
    n: Annotated[int, Field(ge=1, le=4)] = 2
    """Words per n-gram."""


class Chrf(Table):
    """chrF (chrF++ with word_order = 2) on [0, 1]; best over the references."""

    kind: Literal["chrf"]
    word_order: Literal[0, 2] = 0
    """0 is chrF, 2 is chrF++."""


class Bleu(Table):
    """Sentence BLEU on [0, 1] against all references together."""

    kind: Literal["bleu"]
    tokenize: Literal["13a", "intl", "zh", "char", "none"] = "13a"
    """sacrebleu's tokenizer; Chinese needs zh."""


class Levenshtein(Table):
    """Similarity by edit distance on [0, 1]; best over the references."""

    kind: Literal["levenshtein"]


class JsonSchema(Table):
    """1 when the text is JSON that a schema accepts."""

    kind: Literal["json_schema"]
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    """A JSON Schema; without one any JSON will do."""
    partial: bool = False
    """Give the fraction of the schema's properties that are right."""
    strict: bool = False
    """The whole text must be JSON: no code fence, nothing around it."""


class Length(Table):
    """1 inside the bounds, falling to 0 outside."""

    kind: Literal["length"]
    min: Annotated[int, Field(ge=0)] | None = None
    """Smallest length."""
    max: Annotated[int, Field(ge=1)] | None = None
    """Largest length."""
    unit: Literal["words", "characters", "tokens"] = "words"
    """What is counted."""

    @model_validator(mode="after")
    def _bounded(self) -> Length:
        if self.min is None and self.max is None:
            raise ValueError("needs min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min}) is larger than max ({self.max}). Swap them")
        return self


class Diversity(Table):
    """How different the samples of one example are: 1 - mean similarity to the others. Needs search.repeats >= 2."""

    kind: Literal["diversity"]
    n: Annotated[int, Field(ge=1, le=8)] = 2
    """Words per n-gram."""


class Distinct(Table):
    """Distinct-n over the samples of one example. Needs search.repeats >= 2."""

    kind: Literal["distinct"]
    n: Annotated[int, Field(ge=1, le=8)] = 2
    """Words per n-gram."""


class Consistency(Table):
    """How alike the samples of one example are. Needs search.repeats >= 2."""

    kind: Literal["consistency"]
    by: Literal["token_f1", "exact"] = "token_f1"
    """The likeness."""


class Embedding(Table):
    """Cosine similarity of sentence embeddings to the references."""

    INERT: ClassVar[dict[str, Any]] = dict.fromkeys(("engine", "host", "options"), True)
    """Keys of which the model's own identity tells what matters."""

    kind: Literal["embedding"]
    model: str = "sentence-transformers/all-MiniLM-L6-v2"
    """A sentence-transformers model (hub id or folder), or the name of one in Ollama."""
    engine: Literal["sentence-transformers", "ollama"] = "sentence-transformers"
    """Who embeds: a model in this process, or an Ollama server (which needs no torch)."""
    host: str | None = None
    """Address of the Ollama server (default: OLLAMA_HOST)."""
    options: dict[str, Any] = {}
    """Further options of the engine ollama: num_ctx, num_thread, keep_alive, pull ..."""
    device: str = "cpu"
    """Where a model in this process runs: the generator usually has the GPU."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Texts per forward pass."""
    rescale: bool = False
    """Rescale so that the likeness of unrelated references is 0."""
    aggregate: Literal["max", "mean"] = "max"
    """Best or mean over the references."""
    prompt: str | None = None
    """Name of one of the model's own prompts."""

    @model_validator(mode="after")
    def _one_engine(self) -> Embedding:
        given = self.model_fields_set
        if self.engine == "ollama" and "model" not in given:
            raise ValueError('model is missing: name one that embeds, e.g. model = "nomic-embed-text"')
        others = ("device", "prompt") if self.engine == "ollama" else ("host", "options")
        if unused := [name for name in others if name in given]:
            raise ValueError(f"engine {self.engine} has no {', '.join(unused)}. Drop it, or change engine")
        return self


def _loadable(function: Any) -> Any:
    if not callable(function) and not (isinstance(function, str) and ":" in function):
        raise ValueError('must be a callable, or "module:name" in a file beside the study file')
    return function


class Function(Table):
    """Your own `def score(example, text) -> float`, by "module:name" or as the callable itself."""

    kind: Literal["function"]
    function: Annotated[Callable[..., Any] | str, WithJsonSchema({"type": "string", "pattern": ".+:.+"})]
    """The callable."""

    @model_validator(mode="after")
    def _named(self) -> Function:
        _loadable(self.function)
        return self


class Plugin(Table):
    """A scorer of your own: kind = "module:name" of a function, or of a class that takes the other keys as keywords."""

    model_config = {**Table.model_config, "extra": "allow"}
    kind: Annotated[str, Field(pattern=".+:.+")]
    """"module:name", e.g. "my_scorers:exact"; the study file's folder is on the import path."""


BUILT_IN = (
    *(ExactMatch, Contains, Regex, Numeric, TokenF1, RougeL, RougeN, Chrf, Bleu, Levenshtein, JsonSchema, Length),
    *(Diversity, Distinct, Consistency, Embedding, Judge, Human, Function),
)
KINDS: dict[str, type[Table]] = {model.model_fields["kind"].annotation.__args__[0]: model for model in BUILT_IN}  # type: ignore[union-attr]


def _kind(value: Any) -> str | None:
    if isinstance(value, Table):
        return "#plugin" if isinstance(value, Plugin) else "#" + value.kind  # type: ignore[attr-defined]
    kind = value.get("kind") if isinstance(value, dict) else None
    if isinstance(kind, str) and ":" in kind:
        return "#plugin"
    return f"#{kind}" if kind in KINDS else None


ScorerSpec = Annotated[
    Annotated[ExactMatch, Tag("#exact_match")]
    | Annotated[Contains, Tag("#contains")]
    | Annotated[Regex, Tag("#regex")]
    | Annotated[Numeric, Tag("#numeric")]
    | Annotated[TokenF1, Tag("#token_f1")]
    | Annotated[RougeL, Tag("#rouge_l")]
    | Annotated[RougeN, Tag("#rouge_n")]
    | Annotated[Chrf, Tag("#chrf")]
    | Annotated[Bleu, Tag("#bleu")]
    | Annotated[Levenshtein, Tag("#levenshtein")]
    | Annotated[JsonSchema, Tag("#json_schema")]
    | Annotated[Length, Tag("#length")]
    | Annotated[Diversity, Tag("#diversity")]
    | Annotated[Distinct, Tag("#distinct")]
    | Annotated[Consistency, Tag("#consistency")]
    | Annotated[Embedding, Tag("#embedding")]
    | Annotated[Judge, Tag("#judge")]
    | Annotated[Human, Tag("#human")]
    | Annotated[Function, Tag("#function")]
    | Annotated[Plugin, Tag("#plugin")],
    Discriminator(_kind, custom_error_type="scorer_kind", custom_error_message="is not a scorer genopt knows"),
]
