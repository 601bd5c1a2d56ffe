"""The door to a database that is not ours: PostgreSQL, SQLite, MariaDB or MySQL, left as it is found.

Nothing of the database is changed (no journal mode, no tables but our own two), and no table is made unless asked for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import Connection, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ..clock import Clock, system_clock
from ..database import BY_INDEX, Database, parse_store_url, reach, redacted, tame, with_driver
from ..errors import ConfigurationError

_FORMS = "write postgresql://user:password@host/database, mysql://... (MariaDB too) or sqlite:PATH"
_EXTRAS = {"postgresql": "postgres", "mysql": "mysql", "mariadb": "mysql"}
_NOW = {
    "postgresql": "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
    "mysql": "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)",
    "mariadb": "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)",
}


class SystemDatabase(Database):
    """An existing system's database; make it with `SystemDatabase.open`."""

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        clock: Clock = system_clock,
        must_exist: bool = True,
        aside: bool = True,
        by_index: bool = True,
    ) -> SystemDatabase:
        """Open it.

        Args:
            url: `postgresql://...`, `mysql://...`, `mariadb://...` or `sqlite:PATH`; a driver in it
                (`+psycopg`) is of no consequence.
            clock: used for SQLite, which has no clock of its own.
            must_exist: refuse to create a SQLite file.
            aside: run SQLite's statements in threads: the system may have no WAL, so that its writes hold up reads.
            by_index: see `Database.open`.

        Raises:
            ConfigurationError: the URL is none of those, its driver is not installed, or the file does not exist.
            StoreUnreachable: nothing answers there.
        """
        parsed = _parse(url)
        if must_exist:
            _check_file(parsed)
        try:
            engine = _engine(with_driver(parsed, aside=aside), by_index)
        except (ModuleNotFoundError, NoSuchModuleError):
            extra = _EXTRAS[parsed.get_backend_name()]
            raise ConfigurationError(f"{redacted(url)} needs the extra: pip install 'choreo[{extra}]'") from None
        await reach(engine, url, "database")
        return cls(engine, clock)

    @property
    def url(self) -> str:
        """The address as one writes it, with the password masked."""
        url = self._engine.url
        if self.dialect == "sqlite" and url.get_backend_name() == "sqlite":
            return f"sqlite:{url.database}"
        return redacted(url.set(drivername=url.get_backend_name()).render_as_string(hide_password=True))

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Open one write transaction; only SQLite has one writer at a time."""
        if self._engine.dialect.name == "sqlite":
            async with super().transaction() as connection:
                yield connection
        else:
            async with self._begin() as connection:
                yield connection

    def now(self, connection: Connection) -> int:
        """Read the database's clock, in microseconds; SQLite has none, there it is the injected one."""
        statement = _NOW.get(connection.dialect.name)
        return self._clock() if statement is None else int(connection.execute(text(statement)).scalar_one())


def _parse(url: str) -> URL:
    if url.startswith("sqlite:") and not url.startswith("sqlite://"):
        return parse_store_url(url)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is not a number
        parsed = None
    backend = "" if parsed is None else parsed.get_backend_name()
    if parsed is None or backend not in ("sqlite", *_EXTRAS):
        raise ConfigurationError(f"{redacted(url)!r} is no database of an outbox; {_FORMS}")
    if backend in ("mysql", "mariadb"):
        return parsed.set(drivername=f"{backend}+asyncmy")
    return parse_store_url(url)


def _check_file(url: URL) -> None:
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        where = "name the system's own, or start the system, which makes it"
        raise ConfigurationError(f"there is no database at {url.database}; {where}")


def _engine(url: URL, by_index: bool) -> AsyncEngine:
    if url.get_backend_name() != "sqlite":
        # Each SELECT must see what has been committed by then, whatever the server's default is.
        engine = create_async_engine(
            url, pool_size=2, max_overflow=2, pool_pre_ping=True, hide_parameters=True, isolation_level="READ COMMITTED"
        )
        if by_index and url.get_backend_name() == "postgresql":
            event.listen(engine.sync_engine, "begin", _go_by_index)
        return engine
    engine = create_async_engine(url, hide_parameters=True)
    tame(engine)
    return engine


def _go_by_index(connection: Connection) -> None:
    """Set what `BY_INDEX` says until the transaction ends.

    Not for the session, as a store has it: between us and a system's database may be a pooler, which refuses to begin
    with settings that it does not know, and gives our session to the system's own programs next.
    """
    given = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in BY_INDEX.items())
    connection.exec_driver_sql(f"SELECT {given}")
