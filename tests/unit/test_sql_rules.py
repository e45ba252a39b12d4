"""Every statement and table is fit for one machine and for a cluster: no way to write another one slips in unseen."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

import gateway
import services
from services.runtime.migrations import Migration, read_migrations
from tests.sql_rules import Table, judge_statement, judge_tables, read_statement, read_tables

_ROOT: Final = Path(services.__path__[0]).parent
_HOMES: Final[Mapping[str, Path]] = {
    "identity": _ROOT / "services/identity",
    "consent": _ROOT / "services/consent",
    "document": _ROOT / "services/document",
    "audit": _ROOT / "services/audit",
    "gateway": _ROOT / "gateway",
}
_LOCAL: Final[Mapping[str, str]] = {
    "lease": "who leads: a handful of rows, read by leaders only",
    "job": "when each job last ran: a handful of rows",
}
_LOCAL_OF: Final[Mapping[str, Mapping[str, str]]] = {
    "gateway": {"denial_list": "the version of the list of denials: one row"},
    "document": {"reading_sweep": "how far the reading of all documents has come: one row, for one job"},
    "audit": {"dossier_key": "one append holds the keys of many dossiers (decision 0005)"},
}
_OFF_PATH: Final[Mapping[str, str]] = {
    "idempotency_created_at": "the purge",
    "outbox_created_at": "the relay",
    "deadline_due": "the duties of consent",
    "dossier_by_home_host": "the handing over of a host's dossiers",
    "used_assertion_expires_at": "the purge",
    "sign_in_expires_at": "the purge",
    "authorization_code_expires_at": "the purge",
    "login_grant_expires_at": "the purge",
    "revoked_token_expires_at": "the purge, and what services are told",
    "export_job_expires_at": "the purge",
    "import_job_created_at": "the purge",
    "possible_duplicate_list": "the work list of the whole register",
    "event_trail": "the trail is asked by dossier, and a dossier's events lie in one log",
    "event_trail_of_actor": "the same",
    "notice_due": "the delivery",
    "unusual_access_list": "the work list of operators, not of a dossier",
    "unusual_access_dossier": "the destruction of a dossier",
    "document_waiting": "the job of visibility deadlines",
    "upload_created_at": "the sweep",
    "unique_id_by_dossier": "the destruction of a dossier",
}
"""Indexes that serve no request about a dossier, or say so in their migration; each by what it serves."""
_STATEMENT: Final = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "MERGE", "SET", "LISTEN", "NOTIFY")
_MAY_HOLD_SQL: Final = ("store", "services.runtime.")
"""SQL lives in the store of each service and in the runtime's parts for leases, keys, outbox and idempotency."""
_ON_ONE_NODE: Final[Mapping[str, str]] = {
    "services.runtime.jobs": "its tables are local",
    "services.witness.store": "SQLite: the witness is no part of the platform's databases",
    "services.runtime.migrations": "run by one process, never by a request",
    "services.runtime.dossier_keys._READ_AND_HOLD_SEVERAL": "for the audit service, whose dossier_key is local",
}
"""Modules and statements that no shard sees, each with the reason."""


def _modules() -> Iterator[ModuleType]:
    for package in (services, gateway):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                yield importlib.import_module(found.name)


def _statements() -> Iterator[tuple[str, str, str]]:
    """Module, constant, text of every module-level string that is a statement."""
    for module in _modules():
        for name, value in vars(module).items():
            if not isinstance(value, str) or name.startswith("__"):
                continue
            lines = [line for line in value.strip().splitlines() if not line.strip().startswith("--")]
            first = lines[0].strip().split(" ", 1)[0] if lines else ""
            if first in _STATEMENT and len(value) > 15:
                yield module.__name__, name, value


STATEMENTS: Final = sorted(set(_statements()))
TABLES: Final = {name: read_tables(read_migrations(home / "migrations")) for name, home in _HOMES.items()}


def _tables_of(module: str) -> list[Mapping[str, Table]]:
    parts = module.split(".")
    if parts[0] == "gateway":
        return [TABLES["gateway"]]
    return [TABLES[parts[1]]] if parts[1] in TABLES else list(TABLES.values())


@pytest.mark.parametrize("service", sorted(_HOMES))
def test_every_table_says_how_it_is_distributed_and_its_keys_begin_with_that(service: str) -> None:
    assert list(judge_tables(TABLES[service], {**_LOCAL, **_LOCAL_OF.get(service, {})}, _OFF_PATH)) == []


@pytest.mark.parametrize(("module", "name", "text"), STATEMENTS, ids=[f"{m}.{n}" for m, n, _ in STATEMENTS])
def test_every_statement_runs_on_a_cluster(module: str, name: str, text: str) -> None:
    if {module, f"{module}.{name}"} & _ON_ONE_NODE.keys():
        return
    statement = read_statement(text)
    assert statement is not None
    for tables in _tables_of(module):
        assert list(judge_statement(statement, tables)) == []


def test_statements_live_in_stores() -> None:
    elsewhere = {module for module, _, _ in STATEMENTS if not any(part in module for part in _MAY_HOLD_SQL)}
    assert elsewhere == set()
    assert len(STATEMENTS) > 30


def _made(sql: str) -> dict[str, Table]:
    lines = [line for line in sql.splitlines() if line.startswith("-- citus")]
    assert lines, "a sample says how it is distributed"
    return read_tables([Migration(1, "sample", sql)])


_GOOD: Final = (
    "-- citus: t, health_id\nCREATE TABLE t (health_id bigint, id uuid, at date, PRIMARY KEY (health_id, id));"
)


@pytest.mark.parametrize(
    ("sql", "complaint"),
    [
        ("-- citus: t, health_id\nCREATE TABLE t (health_id bigint, id uuid PRIMARY KEY);", "unique without health_id"),
        (f"{_GOOD}\nCREATE INDEX late ON t (at, health_id);", "begins with at"),
        (f"{_GOOD}\nCREATE UNIQUE INDEX one ON t (id);", "unique without health_id"),
        (f"{_GOOD}\nCREATE TABLE u (id int PRIMARY KEY);", "neither how it is distributed"),
        (f"{_GOOD}\nALTER TABLE t ADD COLUMN n bigserial;", "sequence"),
        (f"{_GOOD}\nALTER TABLE t ADD COLUMN n bigint GENERATED ALWAYS AS IDENTITY;", "sequence"),
        (f"{_GOOD}\nALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (id) REFERENCES t (id);", "foreign key"),
        ("-- citus: t, health_id\nCREATE TABLE t (health_id bigint);", "has no key"),
    ],
)
def test_a_table_that_no_cluster_could_hold_is_found(sql: str, complaint: str) -> None:
    assert any(complaint in each for each in judge_tables(_made(sql), {}, {}))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("INSERT INTO t VALUES ($1, $2) ON CONFLICT (id) DO NOTHING", "without health_id"),
        ("INSERT INTO t VALUES ($1, $2) ON CONFLICT DO NOTHING", "left open"),
        ("SELECT id FROM t WHERE health_id = ANY($1::bigint[]) FOR UPDATE", "locks rows of t"),
        ("SELECT id FROM t WHERE id = $1 FOR SHARE", "locks rows of t"),
        ("SELECT pg_advisory_xact_lock($1) FROM t", "calls pg_advisory_xact_lock"),
        ("SELECT nextval('s')", "calls nextval"),
        ("SET statement_timeout = 5", "session"),
    ],
)
def test_a_statement_that_no_cluster_could_run_is_found(text: str, complaint: str) -> None:
    statement = read_statement(text)
    assert statement is not None
    assert any(complaint in each for each in judge_statement(statement, _made(_GOOD)))


def test_a_statement_on_one_dossier_may_lock() -> None:
    statement = read_statement("SELECT id FROM t AS x WHERE x.health_id = $1 AND id = ANY($2) FOR UPDATE")
    assert statement is not None
    assert list(judge_statement(statement, _made(_GOOD))) == []
