"""How a result is shown: the table on the terminal, its section of docs/performance.md. No figure is made here."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.table import Table

from bench.figures import LEAST, Name, Ratio, Row
from bench.load import CONNECTIONS
from bench.machine import Machine
from bench.run import Result
from bench.usage import PROCESSES

_MEANING: Final[dict[Name, str]] = {
    "echo": "a bare `grpc.aio` server that gives back the bytes it gets (about those of `read_metadata`)",
    "read_metadata": "`GetDocument` on the document service: authorised, audited",
    "read_content": "`ReadDocument` of a 100 kB CDA on the document service: authorised, audited, opened, hash checked",
    "gateway_read_metadata": "`GetDocument` through the gateway's relay, as a partner's software calls it",
    "submit": "`SubmitDocuments` of one 100 kB CDA: authorised, patient verified, checked, sealed, committed",
}
_SHORT: Final[dict[Name, str]] = {
    "echo": "echo",
    "read_metadata": "metadata read",
    "read_content": "100 kB content read",
    "gateway_read_metadata": "metadata read through the gateway",
    "submit": "submit of 100 kB",
}


def table(result: Result) -> Table:
    """The rows and ratios, for a terminal."""
    shown = Table(
        "calls",
        "what",
        "rate/s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "of echo",
        "least",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    shown.caption = "calls: in flight at once; of echo: beside the echoes just before and after"
    for column in shown.columns:
        column.no_wrap = True
        column.justify = "left" if column.header == "what" else "right"
    previous = result.rows[0].in_flight
    for each in result.rows:
        if each.in_flight != previous:
            shown.add_section()
            previous = each.in_flight
        ratio = _ratio_of(result, each)
        style = "red" if ratio is not None and not ratio.enough else None
        shown.add_row(str(each.in_flight), each.name, *_figures(each), *_compared(ratio), style=style)
    return shown


def performance_md(result: Result, at: datetime) -> str:
    """The head of docs/performance.md and the section of the whole platform."""
    parts = (_head(result, at), _rows(result), _costs(result), _trail(result), _how(result))
    return "\n\n".join(parts) + "\n"


def _head(result: Result, at: datetime) -> str:
    machine = result.machine
    return f"""# How fast it is

Written by `make bench`, each section by the benchmark that it names, when it was run. This first one: measured on
{at:%d %B %Y}, everything on one machine: the load generator, the five services,
PostgreSQL (durable: `fsync` and synchronous commit on) and Redis, on the same {machine.cores} cores.

| | |
|---|---|
| processor | {machine.processor}, {machine.cores} cores |
| memory | {machine.memory_gib} GiB |
| system | {machine.system} |
| Python | {machine.python} |
| PostgreSQL | {machine.postgresql} |
| libraries | {", ".join(machine.packages)} |
| processors in use before | {machine.busy:.2f} |{_disturbed(machine)}"""


def _disturbed(machine: Machine) -> str:
    if not machine.disturbed:
        return ""
    return "\n\n**Others were using this machine: the figures are too low, and only the ratios mean something.**"


def _rows(result: Result) -> str:
    lines = [
        "## Rates and latencies",
        "",
        "| in flight | what | rate/s | p50 ms | p95 ms | p99 ms | of the echo | at least |",
        "|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for each in result.rows:
        cells = (str(each.in_flight), _SHORT[each.name], *_figures(each), *_compared(_ratio_of(result, each)))
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {_SHORT[name]}: {meaning}" for name, meaning in _MEANING.items())]
    return "\n".join(lines)


def _costs(result: Result) -> str:
    lines = [
        "## Where the time goes",
        "",
        "CPU time of one call at 256 in flight, in microseconds, by process (from the kernel's accounts; the generator",
        "is the bench itself, `postgres` all its processes together):",
        "",
        f"| what | {' | '.join(PROCESSES)} | all |",
        f"|---|{'--:|' * (len(PROCESSES) + 1)}",
    ]
    for each in result.costs:
        cells = [f"{microseconds:,.0f}" for microseconds in (*each.microseconds, sum(each.microseconds))]
        lines.append(f"| {_SHORT[each.name]} | {' | '.join(cells)} |")
    cores = result.machine.cores
    lines += ["", f"{cores} cores have {cores} million microseconds a second, so the last column bounds the rate."]
    return "\n".join(lines)


def _trail(result: Result) -> str:
    trail = result.trail
    answered = sum(count for _, count in trail.answered)
    recorded = sum(count for _, count in trail.recorded)
    verdict = "Each call has exactly one event." if trail.exact else "**They do not agree: the run failed.**"
    return f"""## The trail of the run

Calls answered, warm-up included: {answered:,}. Events that they left in the audit log, counted in its database by an
outside observer: {recorded:,}. Rows in the log: {trail.rows:,}; different events among them: {trail.events:,}. In the
trail of sample dossiers, read as their patients read it: {trail.sample_events:,} accesses, for {trail.sample_reads:,}
reads made. {verdict}"""


def _how(result: Result) -> str:
    plan, extent, plain = result.plan, result.plan.extent, result.plain_echo
    least = ", ".join(f"{value:.2f} at {in_flight} ({_SHORT[name]})" for (name, in_flight), value in LEAST.items())
    return (
        f"""## How to read this

- **Ratios say more than rates.** The machine is shared and noisy; each workload is measured between two echoes, and
  "of the echo" compares it with those two alone. `make bench` fails below {least}.
- **The generator eats from the same plate.** It is a Python process (`grpc.aio`, uvloop, {CONNECTIONS} connections,
  nothing decoded) that costs about as much CPU a call as the echo server does. The echo has one core for itself and
  leaves one to the generator; the platform shares both with it. On a machine of their own the services are faster.
- Each workload and level is measured {plan.rounds} times {plan.slice:.1f} s in turn with the others, the echo
  {plan.echo_seconds:.1f} s each time; {plan.warm_up:.1f} s before each are discarded. Closed loop: as many calls under
  way as the first column says, the next one sent when one is answered. Latencies are the generator's own.
- Everything is over mutual TLS, as in production, the echo too. Without TLS the echo does
  {plain.rate_per_s:,.0f}/s at {plain.in_flight} in flight (p50 {plain.p50_ms:.1f} ms). Its payload has
  {result.echo_bytes} bytes, so that request and answer together weigh what those of a metadata read do.
- Reads pick at random from {extent.dossiers * extent.documents_each:,} documents in {extent.dossiers:,} dossiers
  (contents: {extent.large} documents of 100 kB), as {extent.physicians} physicians, each authorised by their own
  dossiers. No decision and no document comes from a cache: authorisation and row are read from PostgreSQL after each
  call came, and no answer leaves before its event is committed.
- Submitted documents are all different (identifiers, hash) and made before the measurement; their text compresses
  about ten times. An answer means committed in the document service, with its event in the outbox; the run waits for
  the relay before it counts events.
- The figures are in `bench/results.json`. `make bench ARGS=--quick` takes a minute and writes nothing."""
        ""
    )


def _ratio_of(result: Result, shown: Row) -> Ratio | None:
    return next((r for r in result.ratios if (r.name, r.in_flight) == (shown.name, shown.in_flight)), None)


def _figures(shown: Row) -> tuple[str, ...]:
    latencies = (shown.p50_ms, shown.p95_ms, shown.p99_ms)
    return (f"{shown.rate_per_s:,.0f}", *(f"{value:.2f}" if value < 100 else f"{value:.0f}" for value in latencies))


def _compared(ratio: Ratio | None) -> tuple[str, str]:
    if ratio is None:
        return "", ""
    return f"{ratio.value:.2f}", "" if ratio.least is None else f"{ratio.least:.2f}"
