"""Which of the drivers' errors mean that the database cannot be asked, and which that a unit of work may be run again;
all others are defects.
"""

from __future__ import annotations

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, NotSupportedError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from parley_server.errors import StorageUnavailable

_DEFECTS = (DataError, IntegrityError, InterfaceError, NotSupportedError, ProgrammingError)

# What a PostgreSQL server may say although nothing is wrong with the statement, by class or code of its SQLSTATE.
_AWAY = (
    "08",  # the connection
    "25006",  # a standby, which cannot be written to
    "25P03",  # the connection was idle within a transaction for too long
    "28",  # the password or the certificate, which somebody is changing
    "3D000",  # no such database: yet, or any more
    "40",  # rolled back: a deadlock, a conflict
    "53",  # too many connections, a full disk, no memory
    "55",  # a lock that was not to be had in time
    "57",  # shut down, starting up, or longer than a statement may take
    "58",  # an error of the system
    "F0",
    "XX",  # an internal error, a broken file
)
_HUNG_UP = ("08", "25006", "25P03", "57P")
_UNDONE = (
    "23503",  # what a new row refers to was erased after the unit had seen it: it will see that now
    "40001",
    "40P01",
)


def translate(error: Exception, *, outcome_unknown: bool = False) -> Exception:
    """`StorageUnavailable` for a lost connection, a full disk, a held lock or a broken file; any other error comes back
    as it is."""
    if not _is_away(error):
        return error
    unavailable = StorageUnavailable(outcome_unknown=outcome_unknown)
    unavailable.__cause__ = error
    return unavailable


def is_undone(error: Exception) -> bool:
    """Whether PostgreSQL has undone the transaction for certain, and may well grant it when it is run again."""
    return _sqlstate(error) in _UNDONE


def is_lost(error: Exception) -> bool:
    """Whether the connection broke, which says nothing of the server: not where an answer was waited for in vain."""
    if isinstance(error, DBAPIError):
        return bool(error.connection_invalidated)
    return isinstance(error, ConnectionError)


def gives_up(error: BaseException) -> bool:
    """Whether a connection is of no more use after this error, as the driver raised it."""
    return isinstance(error, OSError) or str(getattr(error, "sqlstate", None)).startswith(_HUNG_UP)


def _is_away(error: Exception) -> bool:
    if isinstance(error, OSError | PoolTimeout):  # of a socket or a limit: asyncpg raises them bare
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    code = _sqlstate(error)
    return not isinstance(error, _DEFECTS) if code is None else code.startswith(_AWAY)


def _sqlstate(error: Exception) -> str | None:
    """What a PostgreSQL server calls the error; None for SQLite's, and for those of a driver itself."""
    code = getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None
    return code if isinstance(code, str) else None
