"""Owns the connection to Optuna's tables. Knows that SQLite needs care and that the file may be another program's."""

from __future__ import annotations

import optuna
import sqlalchemy as sa
from optuna.storages import RDBStorage, get_storage
from optuna.storages._cached_storage import _CachedStorage

from genopt.database import URL_HINT, engine_options, made_together, masked, reason, refusal, tune_sqlite, with_driver
from genopt.errors import StudyError
from genopt.migrations import check


def open_storage(url: str, *, create: bool = True) -> tuple[_CachedStorage, RDBStorage]:
    """Optuna's storage (cached, and the one beneath). Raises StudyError when it cannot be used."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = with_driver(url)
    try:
        _refuse_strangers(url, create=create)
        storage = made_together(lambda: RDBStorage(url, engine_kwargs=engine_options(url)))
    except (sa.exc.ArgumentError, ModuleNotFoundError, ValueError) as error:
        raise StudyError(f"storage: {masked(url)} cannot be used ({refusal(error)})", hint=URL_HINT) from None
    except (sa.exc.SQLAlchemyError, ImportError, RuntimeError, OSError) as error:
        raise StudyError(
            f"storage: {masked(url)} cannot be opened ({reason(error)})",
            hint="check the path, its folder's permissions and the driver, or name another storage",
        ) from None
    tune_sqlite(storage.engine)
    cached = get_storage(storage)
    assert isinstance(cached, _CachedStorage)
    return cached, storage


def _refuse_strangers(url: str, *, create: bool) -> None:
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
