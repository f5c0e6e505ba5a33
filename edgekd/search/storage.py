"""Where a study is kept: a journal file beside the run, or a database that several machines share."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from edgekd.core.errors import ConfigError, StorageError, missing_package

_FACTS = "edgekd.facts"
_ATTEMPTS = 5
_PASSWORD = re.compile(r"(://[^:/@]*):[^@]*@")


def open_storage(where: str) -> Any:
    """Open what a study is kept in.

    Args:
        where: A file, or the URL of a database (`postgresql://user@host/name`, `sqlite:///file`).

    Returns:
        An Optuna storage.

    Raises:
        ConfigError: The URL is of no known form.
        PreconditionError: Optuna, or the driver of the database, is not installed.
        StorageError: The file cannot be written, or the database cannot be reached.
    """
    optuna = import_optuna()
    if "://" not in where:
        return _journal(optuna, Path(where))
    scheme = where.partition("://")[0]
    if scheme.partition("+")[0] not in ("postgresql", "postgres", "mysql", "sqlite"):
        raise ConfigError(f"storage {shown(where)}: write a file, postgresql://user@host/name or sqlite:///file")
    if scheme in ("postgresql", "postgres"):
        _require_driver("psycopg", "postgres")
        where = "postgresql+psycopg://" + where.partition("://")[2]
    with storage_errors(where):
        return _database(optuna, where)


def open_study(storage: Any, name: str, *, directions: Sequence[str], facts: Mapping[str, Any], sampler: Any) -> Any:
    """Make a study, or join the one that is there.

    Args:
        storage: What `open_storage` returned.
        name: Its name in the storage.
        directions: `maximize` or `minimize` for each objective.
        facts: What its trials depend on, by name: plain data that must be equal for two commands to share a study.
        sampler: Chooses points.

    Returns:
        An Optuna study.

    Raises:
        ConfigError: The study was begun with other facts; names them with both values.
        StorageError: The storage cannot be reached.
    """
    optuna = import_optuna()
    with storage_errors(name):
        study = optuna.create_study(
            storage=storage, sampler=sampler, study_name=name, directions=list(directions), load_if_exists=True
        )
        known = study.user_attrs.get(_FACTS)
        if known is None:
            study.set_user_attr(_FACTS, dict(facts))
            return study
    other = [
        f"{key} was {_short(known.get(key))}, now it is {_short(facts.get(key))}"
        for key in sorted({*known, *facts})
        if known.get(key) != facts.get(key)
    ]
    if other:
        raise ConfigError(
            f"study {name!r} was begun with other settings: {'; '.join(other)}. Give another --name, or the settings "
            "it was begun with"
        )
    return study


def import_optuna() -> ModuleType:
    """Import Optuna, its chatter turned off; raises `PreconditionError` when it is missing."""
    try:
        import optuna
    except ImportError as error:
        raise missing_package("optuna", "search", "a search over students") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    module: ModuleType = optuna
    return module


def shown(where: str) -> str:
    """Return a storage's address without its password."""
    return _PASSWORD.sub(r"\1:***@", where)


def _journal(optuna: ModuleType, path: Path) -> Any:
    journal = optuna.storages.journal
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = journal.JournalFileOpenLock(str(path))
        return optuna.storages.JournalStorage(journal.JournalFileBackend(str(path), lock_obj=lock))
    except OSError as error:
        raise StorageError(f"study file {path} cannot be written: {error.strerror or error}") from error
    except (ValueError, KeyError, AssertionError) as error:
        raise StorageError(f"study file {path} is damaged or no journal of a study: {error}") from error


def _database(optuna: ModuleType, where: str) -> Any:
    """Open a database; workers that begin at once may find each other making its tables, and try again."""
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    for attempt in range(1, _ATTEMPTS):
        try:
            return optuna.storages.RDBStorage(where, engine_kwargs={"pool_pre_ping": True})
        except (IntegrityError, ProgrammingError):
            time.sleep(0.5 * attempt)
    return optuna.storages.RDBStorage(where, engine_kwargs={"pool_pre_ping": True})


def _require_driver(module: str, extra: str) -> None:
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise missing_package(module, extra, "a study in PostgreSQL")


@contextmanager
def storage_errors(where: str) -> Iterator[None]:
    """Turn what a database or Optuna raises inside the block into `StorageError`, its address without the password."""
    optuna = import_optuna()
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as error:
        cause = (str(error.__cause__ or error).strip().splitlines() or ["no message"])[0]
        raise StorageError(f"the study's storage {shown(where)} cannot be used: {cause}") from error
    except optuna.exceptions.StorageInternalError as error:
        raise StorageError(f"the study's storage {shown(where)} cannot be used: {error}") from error


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
