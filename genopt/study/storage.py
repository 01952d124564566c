"""Owns the connection to Optuna's tables. Knows that SQLite needs care and that the file may be another program's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.distributions import distribution_to_json
from optuna.storages import RDBStorage, get_storage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial

from genopt.connections import engine_options, file_of, patiently, tune
from genopt.database import URL_HINT, made_together, masked, reason, refusal, unanswered, with_driver
from genopt.errors import StudyError
from genopt.migrations import check


def open_storage(url: str, *, create: bool = True, reading: bool = False) -> tuple[_CachedStorage, RDBStorage]:
    """Optuna's storage (cached, and the one beneath), or one for `reading` only. Raises StudyError when it cannot be
    used, with what the driver said as its cause where waiting may help."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = with_driver(url)
    try:
        file, make = file_of(url), partial(_Storage, url, engine_kwargs=engine_options(url))
        patiently(file, lambda: refuse_strangers(url, create=create))
        storage = patiently(file, lambda: made_together(make))
    except (sa.exc.ArgumentError, ModuleNotFoundError, ValueError) as error:
        raise StudyError(f"storage: {masked(url)} cannot be used ({refusal(error)})", hint=URL_HINT) from None
    except (sa.exc.SQLAlchemyError, ImportError, RuntimeError, OSError) as error:
        disk, server = "the path, its folder's permissions and the disk", "host, port, name, password and driver"
        raise StudyError(
            f"storage: {masked(url)} cannot be opened ({reason(error)})",
            hint=f"check {disk if url.startswith('sqlite') else server}, or name another storage",
        ) from (error if isinstance(error, sa.exc.SQLAlchemyError) and unanswered(error) else None)
    tune(storage.engine, reading=reading)
    cached = get_storage(storage)
    assert isinstance(cached, _CachedStorage)
    return cached, storage


@contextmanager
def opened(url: str, *, reading: bool = False) -> Iterator[_CachedStorage]:
    """Optuna's storage of a database that is there, for as long as the block lasts. Raises StudyError."""
    storage, _ = open_storage(url, create=False, reading=reading)
    try:
        yield storage
    finally:
        drop(storage)


def drop(storage: Any) -> None:
    """Close the connections of an open storage, or of a proxy's; safe to call twice."""
    storage.remove_session()
    if hasattr(storage, "_backend"):
        storage._backend.engine.dispose()
    else:
        storage.close()


class _Storage(RDBStorage):
    """Optuna's tables, in which a new trial's parts are inserted together.

    Optuna reads the trial before each part, and for each parameter another trial's, to see that their distributions
    agree: nobody knows this trial yet, and of one study all trials have one space.
    """

    def _get_prepared_new_trial(self, study_id: int, template_trial: FrozenTrial | None, session: Any) -> Any:
        if template_trial is None or template_trial.values is not None or template_trial.intermediate_values:
            return super()._get_prepared_new_trial(study_id, template_trial, session)
        trial = models.TrialModel(
            study_id=study_id,
            number=None,
            state=template_trial.state,
            datetime_start=template_trial.datetime_start,
            datetime_complete=template_trial.datetime_complete,
        )
        session.add(trial)
        session.flush()
        own = {"trial_id": trial.trial_id}
        params = [(name, template_trial.distributions[name], value) for name, value in template_trial.params.items()]
        parts: dict[Any, list[dict[str, Any]]] = {
            models.TrialParamModel: [
                {"param_name": name, "param_value": d.to_internal_repr(v), "distribution_json": distribution_to_json(d)}
                for name, d, v in params
            ],
            models.TrialUserAttributeModel: _attributes(template_trial.user_attrs),
            models.TrialSystemAttributeModel: _attributes(template_trial.system_attrs),
        }
        for model, rows in parts.items():
            if rows:
                session.execute(sa.insert(model), [own | row for row in rows])
        trial.number = trial.count_past_trials(session)
        return trial


def _attributes(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value_json": json.dumps(value)} for key, value in found.items()]


def create(study: optuna.Study, trial: FrozenTrial) -> tuple[int, int]:
    """Store a trial as it is, in one transaction; its number and its id."""
    storage = study._storage
    trial_id = storage.create_new_trial(study._study_id, template_trial=trial)
    if isinstance(storage, _CachedStorage):  # knows it, where asking would read the whole trial
        return storage._trial_id_to_study_id_and_number[trial_id][1], trial_id
    return storage.get_trial(trial_id).number, trial_id


def refuse_strangers(url: str, *, create: bool) -> None:
    """Raise StudyError before anything is written into a database that is another program's, or not there."""
    engine = sa.create_engine(url, **engine_options(url))
    try:
        path = engine.url.database
        if engine.dialect.name == "sqlite" and path and path != ":memory:":
            from pathlib import Path

            if not Path(path).exists():
                if create:
                    return
                raise StudyError(
                    f"storage: {masked(url)} does not exist", hint="check the path, or run the study first"
                )
        check(engine)
        tables = {name for name in sa.inspect(engine).get_table_names() if not name.startswith("genopt_")}
    finally:
        engine.dispose()
    if tables and "studies" not in tables:
        raise StudyError(
            f"storage: {masked(url)} holds tables of another program ({', '.join(sorted(tables)[:3])})",
            hint="name another file or database",
        )
