"""Which of the driver's errors mean that the database cannot be asked; all others are defects."""

from __future__ import annotations

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NotSupportedError, ProgrammingError

from parley_server.errors import StorageUnavailable

_DEFECTS = (DataError, IntegrityError, NotSupportedError, ProgrammingError)


def translate(error: Exception, *, outcome_unknown: bool = False) -> Exception:
    """`StorageUnavailable` for a full disk, a held lock or a broken file; any other error comes back as it is."""
    if not isinstance(error, DBAPIError) or isinstance(error, _DEFECTS):
        return error
    unavailable = StorageUnavailable(outcome_unknown=outcome_unknown)
    unavailable.__cause__ = error
    return unavailable
