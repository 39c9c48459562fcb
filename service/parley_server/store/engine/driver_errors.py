"""Classifies driver errors: unavailable, retryable, or a bug."""

from __future__ import annotations

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, NotSupportedError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from parley_server.errors import StorageUnavailable

_DEFECTS = (DataError, IntegrityError, InterfaceError, NotSupportedError, ProgrammingError)

# Prefixes of SQLSTATE codes for which the statement is correct but the server cannot run it now.
_AWAY = (
    "08",  # connection failure
    "25006",  # a standby, which is read-only
    "25P03",  # idle within a transaction for too long
    "28",  # password or certificate rejected: may be in rotation
    "3D000",  # the database does not exist: may be in creation
    "40",  # rolled back: deadlock or serialisation conflict
    "53",  # too many connections, disk full, out of memory
    "55",  # lock not available in time
    "57",  # shutting down, starting up, or statement timeout
    "58",  # error of the operating system
    "F0",  # error of the server's configuration
    "XX",  # internal error, corrupt file
)
_HUNG_UP = ("08", "25006", "25P03", "57P")
_UNDONE = (
    "23503",  # a concurrent erasure deleted the row that a new row refers to: the next run will see that
    "40001",
    "40P01",
)


def translate(error: Exception, *, outcome_unknown: bool = False) -> Exception:
    """`StorageUnavailable` for a lost connection, a full disk, a held lock or a corrupt file; any other error is
    returned unchanged."""
    if not _is_away(error):
        return error
    unavailable = StorageUnavailable(outcome_unknown=outcome_unknown)
    unavailable.__cause__ = error
    return unavailable


def is_undone(error: Exception) -> bool:
    """Whether PostgreSQL has certainly rolled back the transaction, so that it may be run again."""
    return _sqlstate(error) in _UNDONE


def is_lost(error: Exception) -> bool:
    """Whether the connection broke. A timeout does not count: there the server itself may be unavailable."""
    if isinstance(error, DBAPIError):
        return bool(error.connection_invalidated)
    return isinstance(error, ConnectionError)


def timed_out(error: StorageUnavailable) -> bool:
    """Whether the server has ended a statement because it ran for longer than it may."""
    return isinstance(error.__cause__, Exception) and _sqlstate(error.__cause__) == "57014"


def gives_up(error: BaseException) -> bool:
    """Whether the connection is unusable after this error. `error` is the driver's own, not SQLAlchemy's wrapper."""
    return isinstance(error, OSError) or str(getattr(error, "sqlstate", None)).startswith(_HUNG_UP)


def _is_away(error: Exception) -> bool:
    if isinstance(error, OSError | PoolTimeout):  # asyncpg raises socket errors and timeouts unwrapped
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    code = _sqlstate(error)
    return not isinstance(error, _DEFECTS) if code is None else code.startswith(_AWAY)


def _sqlstate(error: Exception) -> str | None:
    """The SQLSTATE of a PostgreSQL server's error; None for SQLite's errors and those raised by a driver itself."""
    code = getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None
    return code if isinstance(code, str) else None
