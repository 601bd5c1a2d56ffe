"""Statements of the hot paths: SQLAlchemy makes and compiles them once, and SQLite's driver runs them.

For a statement by primary key SQLite needs some microseconds; to find its compiled form, bind its parameters and wrap
its rows takes SQLAlchemy five times as long. The text is SQLAlchemy's in any case, so both databases have one source;
where the driver is another one than `sqlite.SqliteConnection`, SQLAlchemy runs it as well.

PostgreSQL is given many rows as one array for each column: it binds and runs a statement for each row otherwise, which
takes it and its driver as long again as the rows themselves.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from pydantic_core import to_json
from sqlalchemy import (
    ARRAY,
    BindParameter,
    ColumnElement,
    Connection,
    Executable,
    Insert,
    String,
    Text,
    Update,
    any_,
    bindparam,
    column,
    func,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.visitors import iterate, replacement_traverse

from .sqlite import SqliteConnection

Parameters = Mapping[str, Any]


class _Made(NamedTuple):
    text: str
    values: Callable[[Parameters], Any]


class Prepared:
    """A statement that is run again and again with parameters of the same names; it has texts, numbers and bytes.

    Args:
        statement: the statement, or what makes it for a database: called with `sqlite` or `postgresql`.
    """

    __slots__ = ("_made", "_make", "_of_arrays", "_statements")

    def __init__(self, statement: Executable | Callable[[str], Executable]) -> None:
        self._make = statement
        self._of_arrays: Executable | None = None
        self._statements: dict[str, Executable] = {}
        self._made: dict[str, _Made] = {}

    def rows(self, connection: Connection, parameters: Parameters) -> Sequence[Any]:
        """Run it and give its rows, as tuples.

        Raises:
            DBAPIError: the database refuses it.
        """
        driver = driver_of(connection)
        if driver is None:
            return connection.execute(self._statement(connection), parameters).all()
        made = self._compiled(connection, parameters)
        try:
            return sqlite3.Cursor(driver).execute(made.text, made.values(parameters)).fetchall()
        except sqlite3.Error as error:
            raise _refused(connection, made, error) from error

    def run(self, connection: Connection, rows: Sequence[Parameters]) -> int | None:
        """Run it for each row of parameters, each of which has another key.

        An insert fills the columns that the rows name. An update finds its row by the parameters of its WHERE, and sets
        the columns that the others are named after.

        Returns:
            How many rows it has changed; None where the driver does not count them.

        Raises:
            DBAPIError: the database refuses it.
        """
        driver = driver_of(connection)
        if driver is None:
            return self._run_by_sqlalchemy(connection, rows)
        made = self._compiled(connection, rows[0])
        try:
            return sqlite3.Cursor(driver).executemany(made.text, map(made.values, rows)).rowcount
        except sqlite3.Error as error:
            raise _refused(connection, made, error) from error

    def _run_by_sqlalchemy(self, connection: Connection, rows: Sequence[Parameters]) -> int | None:
        statement = self._statement(connection)
        if len(rows) == 1:
            return connection.execute(statement, rows[0]).rowcount
        if connection.dialect.name != "postgresql":
            result = connection.execute(statement, rows)
            return result.rowcount if result.supports_sane_multi_rowcount() else None
        if self._of_arrays is None:
            self._of_arrays = _of_arrays(statement, tuple(rows[0]))
        arrays = {_PREFIX + name: [row[name] for row in rows] for name in rows[0]}
        return connection.execute(self._of_arrays, arrays).rowcount

    def _statement(self, connection: Connection) -> Executable:
        name = connection.dialect.name
        statement = self._statements.get(name)
        if statement is None:
            statement = self._make if isinstance(self._make, Executable) else self._make(name)
            self._statements[name] = statement
        return statement

    def _compiled(self, connection: Connection, parameters: Parameters) -> _Made:
        name = connection.dialect.name
        made = self._made.get(name)
        if made is None:
            statement: Any = self._statement(connection)
            compiled = statement.compile(dialect=connection.dialect, column_keys=list(parameters))
            constants = {name: value for name, value in compiled.params.items() if name not in parameters}
            made = self._made[name] = _Made(str(compiled), _values(compiled.positiontup, constants))
        return made


def driver_of(connection: Connection) -> SqliteConnection | None:
    """Give the driver's connection where statements can be given to it."""
    driver = connection.connection.driver_connection
    return driver if isinstance(driver, SqliteConnection) else None


def one_of(column: ColumnElement[str], name: str, dialect: str) -> ColumnElement[bool]:
    """Say that a column is one of a list, whatever its length: the statement is compiled once.

    Args:
        column: of texts.
        name: of the parameter, whose value is made by `listed`.
        dialect: `sqlite` or `postgresql`.
    """
    if dialect == "postgresql":
        return column == any_(bindparam(name, type_=ARRAY(Text())))
    return column.in_(select(func.json_each(bindparam(name)).table_valued("value").c.value))


def listed(connection: Connection, values: Iterable[str]) -> Any:
    """Make of texts the value of a parameter of `one_of`."""
    return list(values) if connection.dialect.name == "postgresql" else to_json(list(values)).decode()


_PREFIX = "all_"
"""Begins the names of arrays: SQLAlchemy keeps those of columns for itself."""


def _of_arrays(statement: Executable, names: Sequence[str]) -> Executable:
    """Make of a statement for one row one for many, whose parameters are arrays.

    An update finds its rows by the parameters of its WHERE, and sets the columns that the others are named after.
    """
    assert isinstance(statement, Insert | Update)
    assert set(statement.compile(column_keys=list(names)).params) == set(names), "it has values of its own"
    where = statement.whereclause if isinstance(statement, Update) else None
    found = () if where is None else iterate(where)
    bound = {each.key: each.type for each in found if isinstance(each, BindParameter)}
    table = statement.table
    types = {name: _unlimited(bound[name] if name in bound else table.c[name].type) for name in names}
    arrays = [bindparam(_PREFIX + name, type_=ARRAY(type_)) for name, type_ in types.items()]
    columns = [column(name, type_) for name, type_ in types.items()]
    given = func.unnest(*arrays).table_valued(*columns).render_derived(name="given")
    if isinstance(statement, Insert):
        return statement.from_select(list(names), select(*(given.c[name] for name in names)))

    def instead(element: Any, **_: Any) -> Any:
        return given.c[element.key] if isinstance(element, BindParameter) and element.key in types else None

    same: Any = replacement_traverse(where, {}, instead)
    return update(table).where(same).values({name: given.c[name] for name in names if name not in bound})


def _unlimited(type_: Any) -> Any:
    """Leave out a length: a cast would cut what is too long, where a column refuses it."""
    return Text() if isinstance(type_, String) else type_


def _values(names: Sequence[str], constants: Parameters) -> Callable[[Parameters], Any]:
    """Make what takes a statement's parameters out of a row, in their order."""
    if constants:
        return lambda row: [row[name] if name in row else constants[name] for name in names]
    if len(names) == 1:
        return lambda row: (row[names[0]],)
    return itemgetter(*names)


def _refused(connection: Connection, made: _Made, error: sqlite3.Error) -> BaseException:
    """Make of a driver's error SQLAlchemy's, as whoever catches it expects; values stay out of it."""
    return DBAPIError.instance(made.text, None, error, sqlite3.Error, hide_parameters=True, dialect=connection.dialect)
