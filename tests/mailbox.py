"""A mail server for tests: what it was given, and for whom."""

from __future__ import annotations

import email.policy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any

from aiosmtpd.controller import Controller

from tests.ports import free_port


@dataclass(slots=True)
class Mailbox:
    """A mail server on a thread of its own. It takes every mail but the first `refusals`, which are to come again."""

    refusals: int = 0
    port: int = field(default_factory=free_port)
    received: list[tuple[str, bytes]] = field(default_factory=list)
    """Each mail as it came, after who it is for on the envelope."""
    _server: Controller | None = None

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:
        """Called by the server for each mail."""
        if self.refusals:
            self.refusals -= 1
            return "451 later"
        self.received.append((envelope.rcpt_tos[0], envelope.content))
        return "250 OK"

    @property
    def recipients(self) -> list[str]:
        """Who was written to, in order of address."""
        return sorted(to for to, _ in self.received)

    def mails(self) -> dict[str, EmailMessage]:
        """The last mail to each recipient."""
        parser = BytesParser(EmailMessage, policy=email.policy.default)
        return {to: parser.parsebytes(mail) for to, mail in self.received}

    def start(self) -> None:
        """Listen."""
        self._server = Controller(self, hostname="127.0.0.1", port=self.port)
        self._server.start()

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.stop()


@contextmanager
def mail_server(*, refusals: int = 0) -> Iterator[Mailbox]:
    """A running mail server."""
    mailbox = Mailbox(refusals)
    mailbox.start()
    try:
        yield mailbox
    finally:
        mailbox.stop()
