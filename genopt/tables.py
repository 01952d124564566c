"""Owns genopt's tables and how a record becomes a row of one. The names here are promises to tools outside.

A generation's `id` is a digest of what makes it unique, so that rows can be written without asking the database for
ids, and so that two workers that make the same row make the same id.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from genopt.types import Example, Generation, Judgment, Params, Phase, Score

SCHEMA_VERSION = 5  # a change of the tables takes a step in migrations.py
FAILED = "failed"  # no table: what is entered here made no row, and is counted with what its worker paid for
UNIQUE = ("config_key", "example_id", "sample", "phase")

metadata = sa.MetaData()
# MySQL's own TEXT ends at 64 KB and its FLOAT at 7 digits, and it would take "r1" and "R1" for one id.
_text = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
_float = sa.Float(53)
_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _table(name: str, *columns: sa.schema.SchemaItem) -> sa.Table:
    return sa.Table(name, metadata, *columns, mysql_charset="utf8mb4", mysql_collate="utf8mb4_bin")


generations = _table(
    "genopt_generations",
    sa.Column("id", _id, primary_key=True, autoincrement=False),
    sa.Column("study_id", sa.Integer, nullable=False),
    sa.Column("config_key", sa.String(64), nullable=False),
    sa.Column("example_id", sa.String(255), nullable=False),
    sa.Column("sample", sa.Integer, nullable=False),
    sa.Column("phase", sa.String(16), nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("params", _text, nullable=False),
    sa.Column("text", _text, nullable=False),
    sa.Column("finish", sa.String(16), nullable=False),
    sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("completion_tokens", sa.Integer, nullable=False),
    sa.Column("seconds", _float, nullable=False),
    sa.Column("first_token_seconds", _float),
    sa.Column("why", _text, nullable=False),
    sa.Column("kin", sa.String(64)),
    sa.Column("tokens", _text),
    sa.Column("harvested_from", _id),
    sa.UniqueConstraint("study_id", "config_key", "example_id", "sample", "phase"),
    sa.Index("genopt_generations_kin", "study_id", "kin"),
)
scores = _table(
    "genopt_scores",
    sa.Column("generation_id", _id, primary_key=True, autoincrement=False),
    sa.Column("scorer_key", sa.String(64), primary_key=True),
    sa.Column("value", _float),
    sa.Column("why", _text, nullable=False),
)
judgments = _table(
    "genopt_judgments",
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("judge", sa.String(64), nullable=False, index=True),
    sa.Column("value", _float),
    sa.Column("why", _text, nullable=False),
    sa.Column("probabilities", _text, nullable=False),
    sa.Column("raw", _text, nullable=False),
    sa.Column("mode", sa.String(32), nullable=False),
    sa.Column("calls", sa.Integer, nullable=False),
    sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("completion_tokens", sa.Integer, nullable=False),
    sa.Column("seconds", _float, nullable=False),
)
trial_rows = _table(
    "genopt_trial_rows",
    sa.Column("trial_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("generation_id", _id, primary_key=True, autoincrement=False),
)
workers = _table(
    "genopt_workers",
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("study_id", sa.Integer, nullable=False, index=True),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("process", sa.String(64), nullable=False),
    sa.Column("started", _float, nullable=False),
    sa.Column("heartbeat", _float, nullable=False),
    sa.Column("closed", sa.Boolean, nullable=False),
    sa.Column("lease", _float, nullable=False, server_default="60"),
    sa.Column("stage", sa.String(16), nullable=False, server_default=""),
    sa.Column("rate", _float, nullable=False, server_default="0"),
    sa.Column("search_generations", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("confirm_generations", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("failed", sa.BigInteger, nullable=False, server_default="0"),
)
claims = _table(
    "genopt_claims",
    sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("worker", sa.String(64), nullable=False, index=True),
)
examples = _table(
    "genopt_examples",
    sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("example_id", sa.String(255), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("split", sa.String(16), nullable=False),
    sa.Column("row", _text, nullable=False),
)
meta = _table(
    "genopt_meta",
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.String(255), nullable=False),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A stored generation and the scores it has, by scorer key (scores are added as they are made). A `harvested` one
    is a cut of another's text: the engine was not asked for it."""

    id: int
    example_id: str
    sample: int
    generation: Generation
    scores: dict[str, Score]
    harvested: bool = False


@dataclass(frozen=True, slots=True)
class Donor:
    """A stored generation that others may be cuts of: what it was asked with, and what was written."""

    id: int
    example_id: str
    sample: int
    params: Params
    generation: Generation


def generation_id(study_id: int, config_key: str, example_id: str, sample: int, phase: Phase) -> int:
    """63 bits of blake2b over the unique key: at a million rows two keys collide with probability 5e-8."""
    text = f"{study_id}\0{config_key}\0{example_id}\0{sample}\0{phase}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def generation_row(
    study_id: int,
    config_key: str,
    example_id: str,
    sample: int,
    phase: Phase,
    seed: int,
    params: Params,
    g: Generation,
    *,
    kin: str = "",
    harvested_from: int | None = None,
) -> dict[str, Any]:
    """A generation as a row of its table. NUL characters, which PostgreSQL refuses in texts, become U+FFFD. `kin` says
    which others it may be cut to, its tokens are kept only for that; `harvested_from` which one it was made of."""
    return {
        "id": generation_id(study_id, config_key, example_id, sample, phase),
        "study_id": study_id,
        "config_key": config_key,
        "example_id": example_id,
        "sample": sample,
        "phase": phase,
        "seed": seed,
        "params": json.dumps(params, sort_keys=True, ensure_ascii=False),
        "text": _storable(g.text),
        "finish": g.finish,
        "prompt_tokens": g.prompt_tokens,
        "completion_tokens": g.completion_tokens,
        "seconds": g.seconds,
        "first_token_seconds": g.first_token_seconds,
        "why": _storable(g.why),
        "kin": kin or None,
        "tokens": json.dumps(g.tokens, separators=(",", ":")) if kin and g.tokens is not None else None,
        "harvested_from": harvested_from,
    }


def score_row(generation_id: int, scorer_key: str, score: Score) -> dict[str, Any]:
    """A score as a row of its table."""
    return {
        "generation_id": generation_id,
        "scorer_key": scorer_key,
        "value": score.value,
        "why": _storable(score.why),
    }


def judgment_row(key: str, judge: str, judgment: Judgment) -> dict[str, Any]:
    """A judgment as a row of its table; `key` is a digest of everything it depends on, `judge` that of who made it."""
    return {
        "key": key,
        "judge": judge,
        "value": judgment.value,
        "why": _storable(judgment.why),
        "probabilities": json.dumps(dict(judgment.probabilities), ensure_ascii=False),
        "raw": _storable(judgment.raw),
        "mode": judgment.mode,
        "calls": judgment.calls,
        "prompt_tokens": judgment.prompt_tokens,
        "completion_tokens": judgment.completion_tokens,
        "seconds": judgment.seconds,
    }


def judgment_of(row: Any) -> Judgment:
    """The judgment in a row of its table."""
    kept = {name: value for name, value in row.items() if name not in ("key", "judge", "probabilities")}
    return Judgment(probabilities=json.loads(row["probabilities"]), **kept)


def generation_of(row: Any) -> Generation:
    """The generation in a row of its table."""
    return Generation(
        text=row["text"],
        finish=row["finish"],
        prompt_tokens=row["prompt_tokens"],
        completion_tokens=row["completion_tokens"],
        seconds=row["seconds"],
        why=row["why"],
        first_token_seconds=row["first_token_seconds"],
    )


def donor_of(row: Any) -> Donor:
    """The generation in a row of its table as one that others are cut of."""
    params = {n: tuple(v) if isinstance(v, list) else v for n, v in json.loads(row["params"]).items()}
    tokens = None if row["tokens"] is None else tuple(json.loads(row["tokens"]))
    return Donor(row["id"], row["example_id"], row["sample"], params, replace(generation_of(row), tokens=tokens))


def example_row(study_id: int, example: Example, digest: str, split: str) -> dict[str, Any]:
    """An example as a row of its table; `row` holds all but its id as JSON, for reports and for
    scoring again: values that JSON does not know are kept as texts."""
    content: dict[str, Any] = {"fields": dict(example.fields), "references": list(example.references)}
    content |= {"group": example.group, "images": list(example.images)}
    return {
        "study_id": study_id,
        "example_id": example.id,
        "digest": digest,
        "split": split,
        "row": _storable(json.dumps(content, ensure_ascii=False, default=str)),
    }


def example_of(row: Any) -> Example:
    """The example in a row of its table."""
    content = json.loads(row.row)
    images = tuple(content.get("images", ()))
    return Example(row.example_id, content["fields"], tuple(content["references"]), content["group"], images)


def _storable(text: str) -> str:
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    try:
        text.encode()
    except UnicodeEncodeError:  # lone surrogates cannot be stored as UTF-8
        text = text.encode("utf-8", "replace").decode()
    return text
