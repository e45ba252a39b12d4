"""Notices: their words, where they are sealed, and how they are delivered. When there is one is `derivation`'s affair.

A notice that leaves the platform says only that one waits; what it says is read in the platform, where reading is
traced. A delivery port is given one notice at a time and is called again, later and later, until it succeeds: a notice
may come twice, and none is lost.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from email.message import EmailMessage
from typing import Final, Protocol

import aiosmtplib
import structlog

from dmp.audit.v1 import audit_pb2, notice_pb2
from dmp.common.v1 import context_pb2
from services.audit import notice_store
from services.audit.french import paris, spoken_day, who
from services.audit.notice_store import NoticeRow
from services.audit.tags import RowTags
from services.runtime.errors import DmpError
from services.runtime.identifiers import format_health_id
from services.runtime.jobs import Lease
from services.runtime.metrics import Metrics
from services.runtime.postgres import Pool, is_transient, transaction

_log = structlog.get_logger("notices")

_AT_ONCE: Final = 50
_POLL: Final = 1.0
_FIRST_DELAY: Final = 5.0
_LONGEST_DELAY: Final = 3600.0
_MOST_DOUBLINGS: Final = 16
"""More would make the longest delay of any number: an address may fail for months."""
_ACQUIRE_SECONDS: Final = 5.0
SUBJECT: Final = "Un avis vous attend dans votre dossier médical partagé"
BODY: Final = (
    "Bonjour,\n\nUn avis concernant votre dossier médical partagé vous attend. Pour votre sécurité, ce message "
    "n’en dit pas davantage : connectez-vous à votre espace pour le lire.\n\nCe message est envoyé automatiquement ; "
    "n’y répondez pas.\n"
)
PHYSICIAN_SUBJECT: Final = "Un avis vous attend dans le dossier médical partagé d’un patient"
PHYSICIAN_BODY: Final = (
    "Bonjour,\n\nUn avis vous attend dans le dossier médical partagé d’un patient dont vous êtes le médecin traitant. "
    "Ce message n’en dit pas davantage : consultez vos avis depuis votre logiciel ou le site du DMP.\n\nCe message "
    "est envoyé automatiquement ; n’y répondez pas.\n"
)


class DeliveryFailed(Exception):
    """A notice could not be delivered now; it is tried again."""


class NobodyToWriteTo(Exception):
    """No address is known: the notice is read in the platform, where it is."""


EmailOf = Callable[[int], Awaitable[str]]
"""The mail address of the patient of a dossier; empty if none is known."""
PhysiciansOf = Callable[[int], Awaitable[Sequence[str]]]
"""The mail addresses of the attending physicians of a dossier, as far as they are known."""


class Delivery(Protocol):
    """How notices leave the platform."""

    async def deliver(self, notice: NoticeRow) -> None:
        """Returns when the notice is on its way; raises DeliveryFailed or NobodyToWriteTo."""
        ...


class LogDelivery:
    """Writes one line for each notice, which tells of nobody: for development, and where people only look in."""

    async def deliver(self, notice: NoticeRow) -> None:
        _log.info("notice", event_id=str(notice.notice_id), count=len(notice.leaves))


@dataclass(frozen=True, slots=True)
class SmtpDelivery:
    """Sends a mail that says that a notice waits.

    Addresses come from `email_of`, which asks identity what the patient gave, and `physicians_of`, which asks who the
    attending physicians are and where the directory says they are written to. Where `recipient` is set, it is an alias
    in the operator's own mail domain, with `{health_id}` and `{recipient}` (`patient` or `physician`), which the mail
    service turns into a contact. Either way this service keeps none.
    """

    host: str
    port: int
    sender: str
    recipient: str | None = None
    start_tls: bool = True
    timeout: float = 10.0
    email_of: EmailOf | None = None
    physicians_of: PhysiciansOf | None = None

    async def deliver(self, notice: NoticeRow) -> None:
        try:
            addresses = await self.addresses(notice)
        except DmpError as error:
            raise DeliveryFailed(error.reason_name) from error
        if not addresses:
            raise NobodyToWriteTo
        failures: list[BaseException] = []
        for address in addresses:  # each alone: one that fails keeps no other from being told
            try:
                await self._send(notice, address)
            except Exception as error:  # noqa: BLE001 (a boundary: all are tried again, so some may be told twice)
                failures.append(error)
        if failures:
            raise DeliveryFailed(type(failures[0]).__name__) from failures[0]

    async def _send(self, notice: NoticeRow, address: str) -> None:
        patient = notice.recipient == notice_pb2.NOTICE_RECIPIENT_PATIENT
        message = EmailMessage()
        message["From"] = self.sender
        message["To"] = address
        message["Subject"] = SUBJECT if patient else PHYSICIAN_SUBJECT
        message["Message-ID"] = f"<{notice.notice_id}@{self.sender.rpartition('@')[2]}>"
        message.set_content(BODY if patient else PHYSICIAN_BODY)
        await aiosmtplib.send(
            message, hostname=self.host, port=self.port, start_tls=self.start_tls, timeout=self.timeout
        )

    async def addresses(self, notice: NoticeRow) -> Sequence[str]:
        """Where a notice goes, if anywhere. DmpError when it cannot be told now."""
        patient = notice.recipient == notice_pb2.NOTICE_RECIPIENT_PATIENT
        if self.recipient is not None:
            who_ = "patient" if patient else "physician"
            return [self.recipient.format(health_id=format_health_id(notice.health_id), recipient=who_)]
        if not patient:
            return await self.physicians_of(notice.health_id) if self.physicians_of is not None else []
        email = await self.email_of(notice.health_id) if self.email_of is not None else ""
        return [email] if email else []


class Outbox:
    """Delivers what is due, on the process that holds the lease."""

    def __init__(self, pool: Pool, tags: RowTags, delivery: Delivery, metrics: Metrics, lease: Lease) -> None:
        self._pool = pool
        self._tags = tags
        self._delivery = delivery
        self._lease = lease
        self._outcomes = metrics.counter("dmp_audit_notices_total")

    async def run(self) -> None:
        """Delivers until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lease.keep())
            group.create_task(self._drive())

    async def _drive(self) -> None:
        while True:
            if self._lease.held:
                try:
                    await self.step()
                except Exception as error:
                    if not is_transient(error):
                        raise
                    _log.warning("notices_delayed", exc_info=error)
            await asyncio.sleep(_POLL)

    async def step(self) -> int:
        """Tries each notice that is due; how many were delivered."""
        async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
            due = await notice_store.due(conn, _AT_ONCE)
        delivered = 0
        for notice in due:
            outcome = "ok"
            try:
                await self._delivery.deliver(notice)
            except NobodyToWriteTo:
                outcome = "remembered"
            except Exception as error:  # noqa: BLE001 (a boundary: one notice failed, the others go on)
                delay = timedelta(
                    seconds=min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** min(notice.attempts, _MOST_DOUBLINGS))
                )
                _log.warning("notice_not_delivered", event_id=str(notice.notice_id), error_type=_kind(error))
                await self._tried(notice, delay)
                self._outcomes.add(1, "failed")
                continue
            await self._tried(notice)
            self._outcomes.add(1, outcome)
            delivered += outcome == "ok"
        return delivered

    async def _tried(self, notice: NoticeRow, again: timedelta | None = None) -> None:
        async with transaction(self._pool, timeout=_ACQUIRE_SECONDS) as conn:
            await notice_store.tried(conn, self._tags, notice.health_id, notice.notice_id, again)


def _kind(error: Exception) -> str:
    """What kind of failure: what a mail server or a library says of it may hold an address."""
    return str(error) if isinstance(error, DeliveryFailed) else type(error).__name__


def emergency_text(event: audit_pb2.AuditEvent, recipient: int) -> str:
    """What is said of an access in an emergency (domain: both modes notify the patient and the attending physician)."""
    at = paris(event)
    how = (
        "la régulation médicale d’urgence (SAMU)"
        if event.actor.access_mode == context_pb2.ACCESS_MODE_REGULATION
        else "un accès d’urgence (« bris de glace »)"
    )
    whose = "votre dossier médical partagé"
    if recipient == notice_pb2.NOTICE_RECIPIENT_ATTENDING_PHYSICIAN:
        whose = "le dossier médical partagé d’un patient dont vous êtes le médecin traitant"
    text = f"Le {spoken_day(at)} à {at:%H h %M}, {who(event.actor)} est entré dans {whose} par {how}."
    if event.actor.break_glass_reason:
        text += f" Motif indiqué : « {event.actor.break_glass_reason} »."
    if recipient == notice_pb2.NOTICE_RECIPIENT_PATIENT:
        text += (
            " Vous pouvez consulter le détail de cet accès dans l’historique de votre dossier, et vous opposer aux "
            "accès d’urgence dans vos préférences."
        )
    return text


def waiting_text() -> str:
    """What is said of a document that waits since an announcement consultation was asked for (two weeks unread)."""
    return (
        "Un document de votre dossier médical partagé vous attend depuis deux semaines. Prenez contact avec le "
        "professionnel qui l’a déposé : il deviendra visible de lui-même un mois après son dépôt."
    )


def unusual_text(explanation: str, recipient: int) -> str:
    """What is said of an access that a person has confirmed to be unusual."""
    whose = "à votre dossier médical partagé"
    if recipient == notice_pb2.NOTICE_RECIPIENT_ATTENDING_PHYSICIAN:
        whose = "au dossier médical partagé d’un patient dont vous êtes le médecin traitant"
    return f"Un accès inhabituel {whose} a été constaté et confirmé. {explanation}"


def notice_id(event_id: uuid.UUID, recipient: int) -> uuid.UUID:
    """The id of the notice that an event makes for a recipient: always the same, in the order of events."""
    content = event_id.bytes
    return uuid.UUID(bytes=content[:15] + bytes([content[15] ^ recipient]))


def notice_aad(health_id: int, notice: uuid.UUID) -> bytes:
    """What binds a sealed notice to its row."""
    return b"dmp/audit/notice/v1" + health_id.to_bytes(8, "big") + notice.bytes


def item_aad(health_id: int, item: uuid.UUID) -> bytes:
    """What binds a sealed item of the work list to its row."""
    return b"dmp/audit/unusual/v1" + health_id.to_bytes(8, "big") + item.bytes
