"""What statements and tables must be like to run on one machine and on a cluster of Citus (design §4): a linter.

Lives here: reading migrations and statements with PostgreSQL's own parser, and the rules, each a pure function from
what was read to complaints. Which statements there are, and what is exempt and why, is said by `test_sql_rules`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pglast
from pglast import enums, parse_sql
from pglast.parser import ParseError
from pglast.visitors import Visitor

from services.runtime.migrations import Migration

ast: Any = pglast.ast
"""The parser's nodes: each of their fields may be None by its types, which the grammar rules out."""

REFERENCE: Final = "reference"
_SEQUENCES: Final = frozenset({"serial", "bigserial", "smallserial"})
_SESSION_FUNCTIONS: Final = frozenset({"nextval", "currval", "setval", "set_config", "pg_notify"})
_KEY_KINDS: Final = (enums.ConstrType.CONSTR_PRIMARY, enums.ConstrType.CONSTR_UNIQUE)


@dataclass(frozen=True, slots=True)
class Key:
    """A primary key, unique constraint or index: its columns in order (an expression is its source's kind)."""

    name: str
    columns: tuple[str, ...]
    unique: bool


@dataclass(slots=True)
class Table:
    """A table as its migrations leave it. `column` distributes it; None: it stays on one node."""

    name: str
    column: str | None = None
    declared: bool = False
    keys: list[Key] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


def read_tables(migrations: Iterable[Migration]) -> dict[str, Table]:
    """The tables that the migrations of one service make."""
    tables: dict[str, Table] = {}
    for migration in migrations:
        for raw in parse_sql(migration.sql):
            _read(raw.stmt, tables)
        for name, column in migration.distributions:
            tables[name].column, tables[name].declared = column, True
    return tables


def _read(statement: Any, tables: dict[str, Table]) -> None:
    match statement:
        case ast.CreateStmt():
            table = tables[statement.relation.relname] = Table(statement.relation.relname)
            for element in statement.tableElts or ():
                _read_element(element, table)
        case ast.IndexStmt():
            columns = tuple(element.name or "(expression)" for element in statement.indexParams)
            tables[statement.relation.relname].keys.append(
                Key(statement.idxname or "(unnamed)", columns, bool(statement.unique))
            )
        case ast.AlterTableStmt():
            for command in statement.cmds:
                if isinstance(command.def_, (ast.Constraint, ast.ColumnDef)):
                    _read_element(command.def_, tables[statement.relation.relname])
        case ast.DropStmt():
            for name in statement.objects:
                _drop(name[-1].sval if isinstance(name, tuple) else str(name), tables)
        case ast.RenameStmt():
            raise AssertionError("the linter does not follow renamed tables; teach it")
        case _:
            pass


def _read_element(element: Any, table: Table) -> None:
    if isinstance(element, ast.ColumnDef):
        if element.typeName is not None and element.typeName.names[-1].sval in _SEQUENCES:
            table.complaints.append(f"{table.name}.{element.colname} is drawn from a sequence")
        for constraint in element.constraints or ():
            _read_constraint(constraint, table, (element.colname,))
    elif isinstance(element, ast.Constraint):
        _read_constraint(element, table, tuple(key.sval for key in element.keys or ()))


def _read_constraint(constraint: Any, table: Table, columns: tuple[str, ...]) -> None:
    if constraint.contype in _KEY_KINDS:
        primary = constraint.contype is enums.ConstrType.CONSTR_PRIMARY
        name = constraint.conname or f"{table.name}_{'pkey' if primary else '_'.join(columns)}"
        table.keys.append(Key(name, columns, unique=True))
    elif constraint.contype is enums.ConstrType.CONSTR_FOREIGN:
        table.complaints.append(f"{table.name} has a foreign key on {', '.join(columns)}")
    elif constraint.contype is enums.ConstrType.CONSTR_IDENTITY:
        table.complaints.append(f"{table.name}.{columns[0]} is drawn from a sequence")


def _drop(name: str, tables: dict[str, Table]) -> None:
    tables.pop(name, None)
    for table in tables.values():
        table.keys = [key for key in table.keys if key.name != name]


def judge_tables(tables: Mapping[str, Table], local: Mapping[str, str], off_path: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with tables. `local` names those that stay on one node, `off_path` the indexes that serve no
    request and may begin with another column; both say why."""
    for table in tables.values():
        yield from table.complaints
        if not table.declared:
            if table.name not in local:
                yield f"{table.name} says neither how it is distributed nor why it is not"
            continue
        if table.name in local:
            yield f"{table.name} is distributed and said to be local"
        if table.column == REFERENCE:
            continue
        if not any(key.unique for key in table.keys):
            yield f"{table.name} has no key"
        for key in table.keys:
            if key.unique and table.column not in key.columns:
                yield f"{key.name} of {table.name} is unique without {table.column}: no shard could enforce it"
            elif key.columns[0] != table.column and key.name not in off_path:
                yield f"{key.name} of {table.name} begins with {key.columns[0]}, not with {table.column}"


@dataclass(slots=True)
class Statement:
    """What the rules need to know of one statement."""

    text: str
    locks: bool = False
    functions: set[str] = field(default_factory=set)
    from_tables: set[str] = field(default_factory=set)
    """Tables that are read, changed or written."""
    written: set[str] = field(default_factory=set)
    conflicts: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    """The table and the target of each ON CONFLICT."""
    equal: set[str] = field(default_factory=set)
    """Columns compared for equality with a single parameter or value."""
    compared: set[str] = field(default_factory=set)
    """Columns compared for equality with anything: a value, a list, another column."""
    session: bool = False


class _Reader(Visitor):
    def __init__(self, statement: Statement) -> None:
        super().__init__()
        self._of = statement

    def visit_RangeVar(self, _ancestors: Any, node: Any) -> None:
        self._of.from_tables.add(node.relname)

    def visit_LockingClause(self, _ancestors: Any, _node: Any) -> None:
        self._of.locks = True

    def visit_FuncCall(self, _ancestors: Any, node: Any) -> None:
        self._of.functions.add(node.funcname[-1].sval)

    def visit_InsertStmt(self, _ancestors: Any, node: Any) -> None:
        self._of.written.add(node.relation.relname)
        clause = node.onConflictClause
        if clause is not None:
            names = tuple(element.name for element in clause.infer.indexElems) if clause.infer else ()
            self._of.conflicts.append((node.relation.relname, names))

    def visit_UpdateStmt(self, _ancestors: Any, node: Any) -> None:
        self._of.written.add(node.relation.relname)

    def visit_DeleteStmt(self, _ancestors: Any, node: Any) -> None:
        self._of.written.add(node.relation.relname)

    def visit_A_Expr(self, _ancestors: Any, node: Any) -> None:
        if not node.name or node.name[-1].sval != "=":
            return
        for one, other in ((node.lexpr, node.rexpr), (node.rexpr, node.lexpr)):
            for column in _columns(one):
                self._of.compared.add(column)
                if node.kind is enums.A_Expr_Kind.AEXPR_OP and _single(other):
                    self._of.equal.add(column)

    def visit_VariableSetStmt(self, _ancestors: Any, _node: Any) -> None:
        self._of.session = True

    def visit_ListenStmt(self, _ancestors: Any, _node: Any) -> None:
        self._of.session = True


def _columns(node: Any) -> Iterator[str]:
    if isinstance(node, ast.ColumnRef) and isinstance(node.fields[-1], ast.String):
        yield node.fields[-1].sval
    elif isinstance(node, ast.RowExpr):
        for part in node.args:
            yield from _columns(part)


def _single(node: Any) -> bool:
    while isinstance(node, ast.TypeCast):
        node = node.arg
    return isinstance(node, (ast.ParamRef, ast.A_Const))


def read_statement(text: str) -> Statement | None:
    """A statement as the rules see it; None for text that is no statement."""
    try:
        parsed = parse_sql(text)
    except ParseError as error:
        raise AssertionError(f"PostgreSQL's parser refuses: {error}: {text}") from error
    if not parsed:
        return None
    statement = Statement(text)
    for raw in parsed:
        tree: Any = raw.stmt
        _Reader(statement)(tree)
    return statement


def judge_statement(statement: Statement, tables: Mapping[str, Table]) -> Iterator[str]:
    """What is wrong with one statement on these tables."""
    advisory = {name for name in statement.functions if name.startswith("pg_advisory")}
    for name in sorted(advisory | (statement.functions & _SESSION_FUNCTIONS)):
        yield f"calls {name}"
    if statement.session:
        yield "changes the session, which the pool shares"
    for name, target in statement.conflicts:
        column = tables[name].column if name in tables else None
        if column not in (None, REFERENCE) and column not in target:
            yield f"the conflict target of {name} is {target or 'left open'}, without {column}"
    for name in sorted(statement.from_tables & tables.keys()):
        column = tables[name].column
        if column in (None, REFERENCE):
            continue
        if statement.locks and column not in statement.equal:
            yield f"locks rows of {name} without naming one {column}: no cluster locks across shards"
