"""What an error of a database means: whether to try again at once, later, or not at all."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

# serialization_failure, deadlock_detected, lock_not_available (PostgreSQL, appendix A)
_RETRIED_STATES = {"40001", "40P01", "55P03"}
_RETRIED_CODES = {1205, 1213}  # ER_LOCK_WAIT_TIMEOUT, ER_LOCK_DEADLOCK (MariaDB and MySQL, the first argument)
# connection exception, insufficient resources, a lock not had in time, operator intervention, system error, and
# read-only (a standby by now)
_WAITED_STATES = ("08", "53", "55P03", "57", "58", "25006")


def conflicting(error: BaseException) -> bool:
    """Say whether transactions met, so that the same one may succeed when it runs again at once."""
    if not isinstance(error, DBAPIError):
        return False
    code = next(iter(getattr(error.orig, "args", ())), None)
    return getattr(error.orig, "sqlstate", None) in _RETRIED_STATES or (
        isinstance(code, int) and code in _RETRIED_CODES
    )


def unreachable(error: DBAPIError) -> bool:
    """Say whether asking again later may help: the connection broke, or the database is busy, full or only reads."""
    if error.connection_invalidated or str(getattr(error.orig, "sqlstate", "")).startswith(_WAITED_STATES):
        return True
    # SQLITE_ERROR, e.g. "no such table", is a mistake in a statement and stays one.
    if getattr(error.orig, "sqlite_errorname", None) == "SQLITE_ERROR":
        return False
    return isinstance(error, (OperationalError, InterfaceError))


def gives_up(error: DBAPIError) -> bool:
    """Say whether SQLite may have given up the whole transaction: the disk is full, or cannot be read or written.

    See https://sqlite.org/lang_transaction.html: savepoints go with it.
    """
    return str(getattr(error.orig, "sqlite_errorname", "")).startswith(("SQLITE_FULL", "SQLITE_IOERR"))


def first_line(error: BaseException) -> str:
    """Give the first line of an error's text, the driver's own where there is one."""
    original = getattr(error, "orig", None) or error
    lines = str(original).splitlines()
    return lines[0] if lines else type(original).__name__
