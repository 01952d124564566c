"""Owns every statement on genopt's tables. Knows no study, trial or objective: those are ids and keys here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from genopt.connections import engine_options, tune
from genopt.database import URL_HINT, masked, passing, reason, refusal, with_driver
from genopt.errors import StudyError
from genopt.handed import REFUSED
from genopt.leases import Leases, Spent, insert, renew
from genopt.migrations import create
from genopt.tables import (
    FAILED,
    UNIQUE,
    Donor,
    Row,
    claims,
    donor_of,
    example_of,
    example_row,
    examples,
    generation_id,
    generation_of,
    generations,
    judgment_of,
    judgment_row,
    judgments,
    metadata,
    scores,
    trial_rows,
    workers,
)
from genopt.types import Example, Judgment, Phase, Score

# What is read of a generation with its scores: not what only a request or another generation is made of.
READ = [column.name for column in generations.c if column.name not in ("params", "kin", "tokens")]


class Store:
    """One connection to the database, or one for `reading` only; use it from one thread at a time.

    With `worker`, writing renews that worker's lease and counts what it paid for, in the same transaction; `kept` says
    whether the lease was still its own.
    """

    def __init__(self, url: str, *, worker: str = "", reading: bool = False) -> None:
        self.url, self.worker, self.kept = url, worker, True
        url = with_driver(url)
        try:
            self._engine = sa.create_engine(url, **engine_options(url))
        except (sa.exc.ArgumentError, ModuleNotFoundError, ValueError) as error:
            raise StudyError(f"storage: {masked(url)} cannot be used ({refusal(error)})", hint=URL_HINT) from None
        tune(self._engine, reading=reading)
        self.leases = Leases(self._engine)

    def create(self) -> None:
        """Make the tables where they are missing. Raises StudyError when the database cannot be written, or is of an
        older or newer genopt."""
        try:
            create(self._engine)
        except sa.exc.SQLAlchemyError as error:
            if passing(error):
                raise
            raise StudyError(
                f"storage: {masked(self.url)} cannot be written ({reason(error)})",
                hint="check the path, its folder's permissions and the disk, or name another storage",
            ) from None

    def write(self, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Commit rows by table name in one transaction; a row that exists already is left as it is."""
        with self._engine.begin() as connection:
            for name, values in rows.items():
                if name != FAILED:
                    insert(connection, metadata.tables[name], values)
            if self.worker:
                self.kept = renew(connection, self.worker, _cost(rows)) and self.kept

    def rows(self, study_id: int, config_key: str, phase: Phase, of: Sequence[str] | None = None) -> list[Row]:
        """Every stored generation of a configuration, with its scores; or only those `of` some examples."""
        c = generations.c
        wanted = [c.study_id == study_id, c.config_key == config_key, c.phase == phase]
        wanted += [] if of is None else [c.example_id.in_(of)]
        return [row for *_, row in self._stored(*wanted)]

    def rows_of(self, study_id: int, config_keys: Sequence[str], phase: Phase) -> dict[str, list[Row]]:
        """The same of several configurations at once, by key."""
        c = generations.c
        found: dict[str, list[Row]] = {key: [] for key in config_keys}
        wanted = (c.study_id == study_id, c.config_key.in_(config_keys), c.phase == phase)
        for key, _, _, row in self._stored(*wanted):
            found[key].append(row)
        return found

    def donors(self, study_id: int, kin: str, phase: Phase) -> list[Donor]:
        """The generated texts of a family of configurations, which others may be cuts of."""
        c = generations.c
        wanted = (c.study_id == study_id, c.kin == kin, c.phase == phase, c.harvested_from.is_(None))
        with self._engine.connect() as connection:
            return [donor_of(row) for row in connection.execute(sa.select(generations).where(*wanted)).mappings()]

    def sent(self, study_id: int, config_key: str) -> dict[str, Any] | None:
        """The parameters that the requests of a configuration carried; None when it made none."""
        c = generations.c
        query = sa.select(c.params).where(c.study_id == study_id, c.config_key == config_key).limit(1)
        with self._engine.connect() as connection:
            found = connection.execute(query).scalar()
        return None if found is None else dict(json.loads(found))

    def all_rows(self, study_id: int) -> list[tuple[str, Phase, int, Row]]:
        """Every stored generation of a study with its scores, each with its config_key, phase and seed, ordered by
        configuration, phase, example and sample. Two statements, however many rows."""
        c = generations.c
        return self._stored(c.study_id == study_id, order=(c.config_key, c.phase, c.example_id, c.sample))

    def _stored(self, *wanted: Any, order: Sequence[Any] = ()) -> list[tuple[str, Phase, int, Row]]:
        with self._engine.connect() as connection:
            query = sa.select(*(generations.c[name] for name in READ)).where(*wanted).order_by(*order)
            found = connection.execute(query).mappings().all()
            if not found:
                return []
            joined = sa.select(scores).join(generations, generations.c.id == scores.c.generation_id).where(*wanted)
            by_id: dict[int, dict[str, Score]] = {}
            for generation, scorer, value, why in connection.execute(joined):
                by_id.setdefault(generation, {})[scorer] = Score(value, why)
        return [
            (
                row["config_key"],
                row["phase"],
                row["seed"],
                Row(
                    row["id"],
                    row["example_id"],
                    row["sample"],
                    generation_of(row),
                    by_id.get(row["id"], {}),
                    row["harvested_from"] is not None,
                ),
            )
            for row in found
        ]

    def judgments(self, judge: str) -> dict[str, Judgment]:
        """Every stored judgment of one judge, by key."""
        query = sa.select(judgments).where(judgments.c.judge == judge)
        with self._engine.connect() as connection:
            return {row["key"]: judgment_of(row) for row in connection.execute(query).mappings()}

    def judgments_in(self, judges: Sequence[str], mode: str) -> list[tuple[str, str, str]]:
        """Key, judge and raw text of these judges' judgments in one mode, ordered by key; also before `create`."""
        c = judgments.c
        query = sa.select(c.key, c.judge, c.raw).where(c.judge.in_(list(judges)), c.mode == mode).order_by(c.key)
        with self._engine.connect() as connection:
            if not sa.inspect(connection).has_table(judgments.name):
                return []
            return [(key, judge, raw) for key, judge, raw in connection.execute(query)]

    def settle(self, key: str, judge: str, judgment: Judgment) -> None:
        """Put a judgment in the place of the one with this key."""
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(judgments).where(judgments.c.key == key).values(judgment_row(key, judge, judgment))
            )

    def spent(self, study_id: int) -> Spent:
        """What is paid for: generations by phase, tokens read and written, and calls that failed."""
        c = generations.c
        query = (
            sa.select(c.phase, sa.func.count(), sa.func.sum(c.prompt_tokens + c.completion_tokens))
            .where(c.study_id == study_id, c.harvested_from.is_(None))
            .group_by(c.phase)
        )
        with self._engine.connect() as connection:
            counted = {phase: (count, tokens) for phase, count, tokens in connection.execute(query)}
            of_workers = sa.select(sa.func.sum(workers.c.failed)).where(workers.c.study_id == study_id)
            failed = int(connection.scalar(of_workers) or 0)
        tokens = sum(int(tokens or 0) for _, tokens in counted.values())
        return Spent(counted.get("tune", (0, 0))[0], counted.get("confirm", (0, 0))[0], tokens, failed)

    def harvested(self, study_id: int) -> tuple[int, int]:
        """How many texts were had from generated ones, and how many tokens that would have been."""
        c = generations.c
        query = sa.select(sa.func.count(), sa.func.sum(c.prompt_tokens + c.completion_tokens))
        with self._engine.connect() as connection:
            found = connection.execute(query.where(c.study_id == study_id, c.harvested_from.is_not(None))).one()
        return int(found[0]), int(found[1] or 0)

    def remember_examples(self, study_id: int, found: Iterable[tuple[Example, str, str]]) -> None:
        """Keep every example with its digest and its split: a fork has to know which rows still hold, a report and a
        new scorer what was asked."""
        self.write({"genopt_examples": [example_row(study_id, *each) for each in found]})

    def examples(self, study_id: int) -> list[tuple[Example, str]]:
        """The study's examples, each with its split ("tune" or "holdout"), ordered by id."""
        query = sa.select(examples).where(examples.c.study_id == study_id).order_by(examples.c.example_id)
        with self._engine.connect() as connection:
            return [(example_of(row), row.split) for row in connection.execute(query)]

    def example_digests(self, study_id: int) -> dict[str, str]:
        """Example id -> digest, as the study had them when it was begun."""
        with self._engine.connect() as connection:
            found = connection.execute(sa.select(examples).where(examples.c.study_id == study_id)).all()
        return {row.example_id: row.digest for row in found}

    def copy(self, source: int, target: int, example_ids: Iterable[str]) -> int:
        """Copy the generations and scores of these examples into another study; how many were copied."""
        kept, copied = set(example_ids), 0
        with self._engine.begin() as connection:
            found = connection.execute(sa.select(generations).where(generations.c.study_id == source)).mappings()
            moved = {
                row["id"]: {**row, "study_id": target, "id": generation_id(target, *(row[key] for key in UNIQUE))}
                for row in found
                if row["example_id"] in kept and not row["why"].startswith(REFUSED)  # it is asked anew
            }
            for row in moved.values():
                if row["harvested_from"] is not None:
                    row["harvested_from"] = moved[row["harvested_from"]]["id"]
            insert(connection, generations, list(moved.values()))
            copied = len(moved)
            joined = sa.select(scores).join(generations, generations.c.id == scores.c.generation_id)
            old = connection.execute(joined.where(generations.c.study_id == source)).mappings()
            again = [
                {**row, "generation_id": moved[row["generation_id"]]["id"]}
                for row in old
                if row["generation_id"] in moved
            ]
            insert(connection, scores, again)
        return copied

    def copy_trial_rows(self, source: int, target: int, trials: Mapping[int, int]) -> None:
        """Say of copied trials (old id -> new id) which copied generations they used."""
        joined = sa.select(trial_rows.c.trial_id, generations).join(
            generations, generations.c.id == trial_rows.c.generation_id
        )
        with self._engine.begin() as connection:
            found = connection.execute(joined.where(generations.c.study_id == source)).mappings()
            rows = [
                {
                    "trial_id": trials[row["trial_id"]],
                    "generation_id": generation_id(target, *(row[key] for key in UNIQUE)),
                }
                for row in found
                if row["trial_id"] in trials
            ]
            insert(connection, trial_rows, rows)

    def copy_examples(self, source: int, target: int) -> None:
        """Give another study the same examples."""
        with self._engine.begin() as connection:
            found = connection.execute(sa.select(examples).where(examples.c.study_id == source)).mappings()
            insert(connection, examples, [{**row, "study_id": target} for row in found])

    def delete(self, study_id: int, trial_ids: Sequence[int]) -> None:
        """Remove everything of a study."""
        ids = sa.select(generations.c.id).where(generations.c.study_id == study_id)
        with self._engine.begin() as connection:
            connection.execute(sa.delete(scores).where(scores.c.generation_id.in_(ids)))
            connection.execute(sa.delete(trial_rows).where(trial_rows.c.trial_id.in_(list(trial_ids))))
            connection.execute(sa.delete(generations).where(generations.c.study_id == study_id))
            connection.execute(sa.delete(examples).where(examples.c.study_id == study_id))
            connection.execute(sa.delete(workers).where(workers.c.study_id == study_id))
            connection.execute(sa.delete(claims).where(claims.c.study_id == study_id))

    def close(self) -> None:
        """Drop the connections; safe to call twice."""
        self._engine.dispose()


def _cost(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Spent:
    """What new generations and failed calls cost; generations that were harvested cost nothing."""
    made = [row for row in rows.get(generations.name, ()) if row["harvested_from"] is None]
    searched = sum(row["phase"] == "tune" for row in made)
    tokens = sum(row["prompt_tokens"] + row["completion_tokens"] for row in made)
    return Spent(searched, len(made) - searched, tokens, len(rows.get(FAILED, ())))
