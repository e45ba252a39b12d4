"""`dmp audit …`: the trail of a dossier, receipts, and verifying or watching the logs."""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from google.protobuf import json_format
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table

from dmp.audit.v1 import audit_pb2, log_pb2, notice_pb2
from dmp.common.v1 import error_reason_pb2
from ops.audit.monitor import STALE_SECONDS, Alarm, Monitor
from ops.audit.receipts import check_receipt
from ops.audit.sources import OPERATOR_STATEMENT, DirectorySource, RpcSource, Source, SourceFailed, WebSource
from ops.audit.verify import Progress, Verdict, Verification
from ops.command import Dossier, dossier_typed, fail, perform, platform_session
from ops.local.state import write_private
from ops.session import Session, Statement
from ops.terminal import console
from services.runtime.identifiers import dossier_name
from services.runtime.tlog.note import COSIGNATURE, ED25519, NoteWrong, Signer, Verifier
from services.runtime.tlog.policy import Policy, PolicyWrong, parse_policy
from services.runtime.tlog.tree import ProofWrong

app = typer.Typer(no_args_is_help=True, help="The trail of a dossier, receipts, and verifying the logs.")
_out = console()

PolicyFile = Annotated[
    Path | None, typer.Option("--policy", help="Trusted logs and witnesses (c2sp.org/tlog-policy).", dir_okay=False)
]
LogKey = Annotated[list[str] | None, typer.Option("--log-key", help="Trusted verifier key of a log; no witnesses.")]
Url = Annotated[str, typer.Option(help="Where the log is published, such as https://dmp.example/log/0.")]
Directory = Annotated[Path | None, typer.Option(help="A directory that holds the published files.", file_okay=False)]
ALARM_EXIT = 3


@app.command()
def trail(dossier: Dossier) -> None:
    """List who did what in a dossier, newest first, as its patient sees it."""

    async def act() -> None:
        async with platform_session() as session:
            table = Table(box=None)
            for title in ("when", "who", "from", "action", "outcome", "reason"):
                table.add_column(title, no_wrap=True)
            parent, patient = await _patient(session, dossier)
            request = audit_pb2.ListEventsRequest(parent=parent, page_size=200)
            while True:
                answer = await session.call("audit", "ListEvents", request, audit_pb2.ListEventsResponse, patient)
                for item in answer.events:
                    table.add_row(*_told(item.event))
                request.page_token = answer.next_page_token
                if not request.page_token:
                    break
            _out.print(table)

    perform(act())


@app.command()
def summary(dossier: Dossier) -> None:
    """Say in French who entered a dossier, and why they could, as its patient reads it."""

    async def act() -> None:
        async with platform_session() as session:
            parent, patient = await _patient(session, dossier)
            request = audit_pb2.SummarizeAccessRequest(parent=parent)
            answer = await session.call("audit", "SummarizeAccess", request, audit_pb2.SummarizeAccessResponse, patient)
            for each in answer.summaries:
                _out.print(each.sentence, highlight=False)

    perform(act())


@app.command()
def export(
    dossier: Dossier,
    output: Annotated[Path | None, typer.Option(help="Write there instead of to standard output.")] = None,
) -> None:
    """Write the whole trail of a dossier as NDJSON, oldest first."""

    async def act() -> None:
        async with platform_session() as session:
            parent, patient = await _patient(session, dossier)
            request = audit_pb2.ExportEventsRequest(parent=parent)
            events = session.stream("audit", "ExportEvents", request, audit_pb2.ExportEventsResponse, patient)
            with output.open("w", encoding="utf-8") if output else sys.stdout as stream:
                async for each in events:
                    stream.write(json.dumps(json_format.MessageToDict(each.event), ensure_ascii=False) + "\n")

    perform(act())


@app.command()
def receipt(
    event: Annotated[str, typer.Argument(help="An event's name: dossiers/…/events/….")],
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("receipt.tlog-proof"),
) -> None:
    """Fetch the receipt of an event, as the patient of its dossier."""

    async def act() -> None:
        async with platform_session() as session:
            _, patient = await _patient(session, event.split("/")[1] if "/" in event else event)
            request = audit_pb2.GetReceiptRequest(name=event)
            answer = await session.call("audit", "GetReceipt", request, audit_pb2.GetReceiptResponse, patient)
            output.write_text(answer.proof, encoding="utf-8")
            _out.print(f"{output}: event {answer.receipt.leaf_index} of the log {answer.log_key}", soft_wrap=True)

    perform(act())


@app.command()
def verify_receipt(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A receipt (.tlog-proof).")],
    policy: PolicyFile = None,
    log_key: LogKey = None,
) -> None:
    """Check a receipt without the platform; exit code 1 unless it holds."""
    try:
        checked = check_receipt(file.read_bytes(), _policy(policy, log_key))
    except (NoteWrong, ProofWrong) as error:
        fail(f"the receipt does not hold: {error}")
    checkpoint = checked.trusted.checkpoint
    _out.print(f"In the log {checkpoint.origin}, entry {checked.index} of {checkpoint.size}:", highlight=False)
    _out.print(json_format.MessageToJson(checked.event, ensure_ascii=False), highlight=False)
    for name, at in checked.witnessed.items():
        _out.print(f"seen by the witness {name} on {at:%Y-%m-%d %H:%M:%S} UTC", highlight=False)


@app.command()
def verify(
    log: Annotated[int, typer.Option(help="The number of the log, when asked of the running platform.")] = 0,
    url: Url = "",
    directory: Directory = None,
    policy: PolicyFile = None,
    log_key: LogKey = None,
    state: Annotated[Path | None, typer.Option(help="Keep progress there, and go on from it.")] = None,
) -> None:
    """Derive a whole log again from its entries, and name what is damaged; exit code 1 if something is.

    Of the running platform, the stored events are opened and compared too; of --url or --directory, what is published.
    """

    async def act() -> Verdict:
        if directory is not None:
            return await _verify(DirectorySource(directory), _policy(policy, log_key), state)
        if url:
            async with httpx.AsyncClient(timeout=30, verify=_trusted_by_the_stack()) as http:
                return await _verify(WebSource(http, url.rstrip("/")), _policy(policy, log_key), state)
        async with platform_session() as session:
            source = RpcSource(session, log)
            given = _policy(policy, log_key) if policy or log_key else await _stated(source)
            return await _verify(source, given, state)

    try:
        verdict = perform(act())
    except SourceFailed as error:
        fail(str(error))
    for finding in verdict.findings:
        _out.print(str(finding), highlight=False, markup=False, soft_wrap=True)
    if not verdict.sound:
        fail(f"{len(verdict.findings)} damaged")
    seen = f", cosigned by {', '.join(verdict.cosigners)}" if verdict.cosigners else ""
    _out.print(f"{verdict.checkpoint.origin}: {verdict.checkpoint.size} events, all sound{seen}", highlight=False)
    if verdict.destroyed:
        _out.print(f"{verdict.destroyed} clear parts were destroyed by law, each as an event of the log says")
    if verdict.adopted:
        _out.print(f"{verdict.adopted} clear parts were gone before rows said why (events log.adopt)")


@app.command()
def adopt() -> None:
    """Take what was kept before rows bore tags as it is, once after an upgrade. That it was done is in the log."""

    async def act() -> None:
        async with platform_session() as session:
            request = log_pb2.AdoptRowsRequest(request_id=f"adopt-{uuid.uuid4()}")
            answer = await session.call("audit", "AdoptRows", request, log_pb2.AdoptRowsResponse, OPERATOR_STATEMENT)
            _out.print(
                f"adopted: {answer.row_count} events without a clear part, {answer.key_count} destroyed dossiers, "
                f"{answer.derived_count} rows of other tables"
            )

    perform(act())


@app.command()
def monitor(
    state: Annotated[Path, typer.Option(help="The file that holds the newest checkpoint seen.")],
    log: Annotated[int, typer.Option(help="The number of the log, when asked of the running platform.")] = 0,
    url: Url = "",
    directory: Directory = None,
    policy: PolicyFile = None,
    log_key: LogKey = None,
    every: Annotated[float, typer.Option(help="Seconds between two looks.")] = 5.0,
    stale: Annotated[float, typer.Option(help="Seconds after which silence, or a log that stands still, alarms.")] = (
        STALE_SECONDS
    ),
    once: Annotated[bool, typer.Option(help="Look once.")] = False,
) -> None:
    """Follow a log's checkpoints, and alarm (exit code 3) on a fork, a rewrite, silence, or a log that stands still."""

    async def watch(source: Source, given: Policy) -> None:
        await _watch(Monitor(source, given, state, stale=stale), every, once)

    async def act() -> None:
        if directory is not None:
            await watch(DirectorySource(directory), _policy(policy, log_key))
        elif url:
            async with httpx.AsyncClient(timeout=30, verify=_trusted_by_the_stack()) as http:
                await watch(WebSource(http, url.rstrip("/")), _policy(policy, log_key))
        else:
            async with platform_session() as session:
                source = RpcSource(session, log)
                await watch(source, _policy(policy, log_key) if policy or log_key else await _stated(source))

    perform(act())


@app.command()
def counts(
    start: Annotated[str, typer.Argument(help="The first day, such as 2026-11-01.")],
    end: Annotated[str, typer.Argument(help="The last day.")],
) -> None:
    """Count what happened on the platform by day."""

    async def act() -> None:
        async with platform_session() as session:
            request = audit_pb2.CountEventsRequest(start_day=start, end_day=end)
            answer = await session.call(
                "audit", "CountEvents", request, audit_pb2.CountEventsResponse, OPERATOR_STATEMENT
            )
            table = Table("day", "action", "outcome", "events", box=None)
            for each in answer.counts:
                table.add_row(each.day, each.action, _word(audit_pb2.Outcome.Name(each.outcome)), str(each.event_count))
            _out.print(table)

    perform(act())


@app.command()
def unusual(
    decide: Annotated[str, typer.Option(help="Close this item (its name) instead of listing.")] = "",
    confirmed: Annotated[bool, typer.Option(help="It should not have been: the patient is told.")] = False,
) -> None:
    """List the accesses that look unusual, or close one."""

    async def act() -> None:
        async with platform_session() as session:
            if decide:
                decision = notice_pb2.UNUSUAL_DECISION_CONFIRMED if confirmed else notice_pb2.UNUSUAL_DECISION_EXPLAINED
                request = notice_pb2.DecideUnusualAccessRequest(
                    name=decide, decision=decision, request_id=f"decide-{decide}"
                )
                await session.call(
                    "audit", "DecideUnusualAccess", request, notice_pb2.DecideUnusualAccessResponse, OPERATOR_STATEMENT
                )
                return
            table = Table("item", "detector", "who", "what", box=None)
            pages = notice_pb2.ListUnusualAccessesRequest()
            while True:
                answer = await session.call(
                    "audit",
                    "ListUnusualAccesses",
                    pages,
                    notice_pb2.ListUnusualAccessesResponse,
                    OPERATOR_STATEMENT,
                )
                for each in answer.unusual_accesses:
                    table.add_row(each.name, each.detector, each.subject, each.explanation)
                pages.page_token = answer.next_page_token
                if not pages.page_token:
                    break
            _out.print(table)

    perform(act())


@app.command()
def new_key(
    name: Annotated[str, typer.Argument(help="The origin of a log, such as dmp.example/log/0, or a witness's name.")],
    file: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")],
    witness: Annotated[bool, typer.Option(help="A key that cosigns.")] = False,
) -> None:
    """Make the key of a log or of a witness, and print its public half."""
    if file.exists():
        fail(f"{file} exists already")
    try:
        signer = Signer.generate(name, COSIGNATURE if witness else ED25519)
    except NoteWrong as error:
        fail(str(error))
    write_private(file, signer.text() + "\n")
    _out.print(signer.verifier.text(), soft_wrap=True, highlight=False)


async def _verify(source: Source, policy: Policy, state: Path | None) -> Verdict:
    try:
        progress = Progress.load(state) if state is not None and state.exists() else None
    except (ValueError, KeyError, TypeError):
        fail(f"{state}: not the progress of a verification")
    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("verifying", total=None)

        def advanced(done: Progress, size: int) -> None:
            bar.update(task, completed=done.edge.size, total=size)
            if state is not None:
                done.save(state)

        return await Verification(source, policy, progress, advanced=advanced).run()


async def _watch(watching: Monitor, every: float, once: bool) -> None:
    if once:
        seen = await watching.look()
        _tell(seen)
        return
    async for each in watching.follow(every):
        _tell(each)


def _tell(seen: Any) -> None:
    if isinstance(seen, Alarm):
        _out.print(f"ALARM: {seen.problem}", style="red", highlight=False)
        for note in (seen.before, seen.now):
            _out.print(note.decode(errors="replace"), highlight=False, markup=False)
        raise typer.Exit(ALARM_EXIT)
    if seen is not None:
        checkpoint = seen.trusted.checkpoint
        _out.print(f"{checkpoint.origin}: {seen.size_before} → {checkpoint.size} events", highlight=False)


def _policy(file: Path | None, log_keys: list[str] | None) -> Policy:
    try:
        if file is not None:
            return parse_policy(file.read_text("utf-8"))
        return Policy.unwitnessed(*(Verifier.parse(key) for key in log_keys or []))
    except (OSError, NoteWrong, PolicyWrong) as error:
        fail(f"the keys cannot be used: {error}")


async def _stated(source: RpcSource) -> Policy:
    """The keys that the service itself states: good enough to find damage, not to find a liar."""
    found = next((log for log in await source.logs() if log.log_id == source.log_id), None)
    if found is None:
        fail(f"there is no log {source.log_id}")
    policy = parse_policy(found.policy)
    own = Policy.unwitnessed(Verifier.parse(found.key))
    return Policy(own.logs, policy.witnesses, policy.groups, policy.quorum)


async def _patient(session: Session, dossier: str) -> tuple[str, Statement]:
    health_id = await dossier_typed(session, dossier)
    return dossier_name(health_id), Statement.patient(health_id)


def _trusted_by_the_stack() -> Any:
    """Certificates of public authorities, and those of the local platform where there is one."""
    import ssl

    from ops.local.state import State

    context = ssl.create_default_context()
    authority = State.open().pki / "ca.pem"
    if authority.exists():
        context.load_verify_locations(authority)
    return context


def _told(event: audit_pb2.AuditEvent) -> tuple[str, ...]:
    """An event as a row of the trail's table."""
    return (
        event.event_time.ToDatetime().isoformat(" ", "seconds"),
        event.actor.subject_name or event.actor.subject,
        event.network_address,
        event.action,
        _word(audit_pb2.Outcome.Name(event.outcome)),
        _word(error_reason_pb2.ErrorReason.Name(event.reason)),
    )


def _word(enum_name: str) -> str:
    return enum_name.split("_", 1)[1].removeprefix("REASON_").lower().replace("unspecified", "")
