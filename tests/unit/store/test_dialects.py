"""All statements and tables also compile for PostgreSQL."""

import importlib
import pkgutil

import parley_server.store
import pytest
from parley_server.core.store_types import ConversationFilter
from parley_server.store import acceptance, checkpoints, conversations, listings, replicas, request_ids
from parley_server.store.schema import metadata
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.sql import Executable

from tests.contract.store_values import ADA

QUERY_MODULES = [
    importlib.import_module(f"parley_server.store.{module.name}")
    for module in pkgutil.iter_modules(parley_server.store.__path__)
    if module.name != "migrations"
]
STATEMENTS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": value
    for module in QUERY_MODULES
    for name, value in vars(module).items()
    if isinstance(value, Executable)
}
STATEMENTS |= {
    "acceptance.claim": acceptance._claim("postgresql", at_head=True),
    "acceptance.claim_below": acceptance._claim("postgresql", at_head=False),
    "checkpoints.append": checkpoints._append("postgresql"),
    "conversations.insert": conversations._insert("postgresql"),
    "keys.claim": request_ids._claim("postgresql"),
    "listings.matching": listings._matching(
        ADA, ConversationFilter(words=("a",), labels={"a": "b"}, before=(1, "x")), ["a"]
    ),
}


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_a_statement_compiles_for_postgresql(name):
    assert str(STATEMENTS[name].compile(dialect=postgresql.dialect()))


def test_there_are_statements_to_check():
    assert len(STATEMENTS) > 35


def test_locks_and_conflicts_are_postgresqls():
    dialect = postgresql.dialect()
    assert "FOR UPDATE" in str(request_ids._LOCK.compile(dialect=dialect))
    assert "FOR UPDATE" in str(conversations._LOCK_TO_ERASE.compile(dialect=dialect))
    assert "FOR NO KEY UPDATE" in str(conversations._LOCK_TO_CHANGE.compile(dialect=dialect))
    assert "FOR NO KEY UPDATE OF reply" in str(STATEMENTS["checkpoints.append"].compile(dialect=dialect))
    assert "FOR UPDATE SKIP LOCKED" in str(replicas._take("postgresql").compile(dialect=dialect))
    assert "ON CONFLICT DO NOTHING" in str(STATEMENTS["acceptance.claim"].compile(dialect=dialect))
    assert "ON CONFLICT (reply_id, epoch, from_sequence) DO UPDATE" in str(
        STATEMENTS["checkpoints.append"].compile(dialect=dialect)
    )


def test_the_tables_compile_for_postgresql():
    dialect = postgresql.dialect()
    made = [str(CreateTable(table).compile(dialect=dialect)) for table in metadata.sorted_tables]
    made += [
        str(CreateIndex(index).compile(dialect=dialect))
        for table in metadata.tables.values()
        for index in table.indexes
    ]
    assert any("reply_active_once" in each and "WHERE state IN ('PENDING', 'STREAMING')" in each for each in made)
    assert not any("ROWID" in each.upper() for each in made)
