"""Random lives of a dossier against a model of a page: same documents, same visibility, same totals, same pages.

The model knows four callers, and of each document its state and from whom it is hidden. After every step each caller
searches, page by page, and must see what the model says; retries and services that are taken away in the middle of a
call (their database connection dies) must change nothing but once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2 as pb
from services.runtime.errors import DmpError
from services.runtime.identifiers import new_health_id
from services.runtime.postgres import connect
from tests.document_world import World
from tests.documents import FakeAudit, FakeConsent, FakeIdentity, cda, decision, new_oid, submission
from tests.faults.campaign import Budget, amount, publish

MASK, UNMASK, SHOW = pb.DOCUMENT_CHANGE_MASK, pb.DOCUMENT_CHANGE_UNMASK, pb.DOCUMENT_CHANGE_SHOW_TO_PATIENT
ARCHIVE, UNARCHIVE = pb.DOCUMENT_CHANGE_ARCHIVE, pb.DOCUMENT_CHANGE_UNARCHIVE
DELETE, DEPRECATE = pb.DOCUMENT_CHANGE_DELETE, pb.DOCUMENT_CHANGE_DEPRECATE
STATUSES: Final = (1, 2, 3)
VIEWS: Final = {
    "physician": decision(masked=consent_pb2.MASKED_VIEW_NONE),
    "attending": decision(),
    "patient": decision(patient_view=True),
    "representative": decision(representative_view=True, patient_view=True),
}


@dataclass(frozen=True, slots=True)
class Kept:
    """A document as the model has it."""

    order: int
    status: int = 1
    before: int = 0
    masked: bool = False
    invisible: bool = False
    hidden: bool = False
    version: int = 1

    def shown_to(self, viewer: str) -> bool:
        if self.status == 4 or (self.masked and viewer == "physician"):
            return False
        if self.invisible and viewer in ("patient", "representative"):
            return False
        return not (self.hidden and viewer == "representative")

    def changed(self, change: pb.DocumentChange.ValueType) -> Kept | None:
        if self.status == 4:
            return None
        moved = {
            MASK: None if self.masked or self.invisible else replace(self, masked=True),
            UNMASK: replace(self, masked=False) if self.masked else None,
            SHOW: replace(self, invisible=False) if self.invisible else None,
            ARCHIVE: replace(self, status=3, before=self.status) if self.status in (1, 2) else None,
            UNARCHIVE: replace(self, status=self.before, before=0) if self.status == 3 else None,
            DELETE: replace(self, status=4),
            DEPRECATE: replace(self, status=2) if self.status == 1 else None,
        }[change]
        return None if moved is None else replace(moved, version=self.version + 1)


class Lives(RuleBasedStateMachine):
    """What may happen to a dossier."""

    dsn = ""
    done: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.done["lives"] += 1
        self.runner = asyncio.Runner()
        self.kept: dict[str, Kept] = {}
        self.order = 0

    def do(self, work: Any) -> Any:
        return self.runner.run(work)

    @initialize()
    def open(self) -> None:
        async def made() -> World:
            pool = await connect(self.dsn, min_size=1, max_size=3, name="dmp-model")
            return World(pool, FakeConsent(), FakeIdentity(), FakeAudit(), dossier=new_health_id())

        self.world = self.do(made())

    @rule(
        flags=st.sets(
            st.sampled_from(["MASQUE_PS", "INVISIBLE_PATIENT", "INVISIBLE_REPRESENTANTS_LEGAUX"]), max_size=2
        ),
        count=st.integers(1, 3),
        twice=st.booleans(),
    )
    def submit(self, flags: set[str], count: int, twice: bool) -> None:
        metadata = pb.Document()
        for flag in sorted(flags):
            metadata.confidentiality.add(system="1.2.250.1.213.1.1.4.13", code=flag)
        request = submission(self.world.dossier, *((metadata, cda(new_oid())) for _ in range(count)))
        try:
            answer = self.do(self.world.send(request))
        except DmpError as error:
            expected = flags == {"MASQUE_PS", "INVISIBLE_PATIENT"}
            if not expected or error.reason != reasons.ERROR_REASON_METADATA_ERROR:
                raise
            return
        if twice:
            assert self.do(self.world.send(request)) == answer
        for document in sorted(answer.documents, key=lambda d: d.name):
            self.order += 1
            self.kept[document.name] = Kept(
                self.order,
                masked="MASQUE_PS" in flags,
                invisible="INVISIBLE_PATIENT" in flags,
                hidden="INVISIBLE_REPRESENTANTS_LEGAUX" in flags,
            )

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), change=st.sampled_from([MASK, UNMASK, SHOW, ARCHIVE, UNARCHIVE, DELETE, DEPRECATE]))
    def change(self, data: st.DataObject, change: pb.DocumentChange.ValueType) -> None:
        name = data.draw(st.sampled_from(sorted(self.kept)))
        wanted = self.kept[name].changed(change)
        self.world.consent.answer = VIEWS["attending"]
        if wanted is None:
            with pytest.raises(DmpError):
                self.do(self.world.change(name, change))
            return
        answer = self.do(self.world.change(name, change, expected_version=self.kept[name].version))
        self.kept[name] = wanted
        assert (answer.version, answer.status) == (wanted.version, wanted.status)

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), rivals=st.integers(1, 3))
    def take_place(self, data: st.DataObject, rivals: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.kept)))
        requests = [submission(self.world.dossier, (pb.Document(), cda(new_oid()))) for _ in range(rivals)]
        for request in requests:
            request.documents[0].relationships.add(type=pb.RELATIONSHIP_TYPE_REPLACES, target=name)

        async def all_at_once() -> list[Any]:
            return await asyncio.gather(*(self.world.send(request) for request in requests), return_exceptions=True)

        made = [answer for answer in self.do(all_at_once()) if isinstance(answer, pb.SubmitDocumentsResponse)]
        old = self.kept[name]
        assert len(made) == (old.status == 1)
        for answer in made:
            self.order += 1
            self.kept[name] = replace(old, status=2, version=old.version + 1)
            hidden = Kept(self.order, masked=old.masked, invisible=old.invisible, hidden=old.hidden)
            self.kept[answer.documents[0].name] = hidden

    @rule()
    def lose_the_connections(self) -> None:
        """What a crash of the database's side of each connection leaves: nothing half done."""
        kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'dmp-model'"
        request = submission(self.world.dossier, (pb.Document(), cda(new_oid())))

        async def cut() -> Any:
            import asyncpg

            other = await asyncpg.connect(self.dsn)
            sending = asyncio.ensure_future(self.world.send(request))
            await asyncio.sleep(0.003)
            await other.execute(kill)
            await other.close()
            await asyncio.wait({sending})
            for _ in range(20):
                try:
                    return await self.world.send(request)
                except DmpError as error:
                    if error.reason != reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE:
                        raise
            raise AssertionError("the service does not come back")

        answer = self.do(cut())
        self.order += 1
        self.kept[answer.documents[0].name] = Kept(self.order)
        self.done["cuts"] += 1

    @invariant()
    def everybody_sees_what_the_model_says(self) -> None:
        self.done["steps"] += 1
        for viewer, view in VIEWS.items():
            self.world.consent.answer = view
            seen, totals = self.do(self._pages())
            shown = {name: kept for name, kept in self.kept.items() if kept.shown_to(viewer)}
            assert seen == sorted(shown, key=lambda name: -shown[name].order), viewer
            assert totals == {len(shown)}
        self.world.consent.answer = VIEWS["attending"]

    async def _pages(self) -> tuple[list[str], set[int]]:
        seen: list[str] = []
        totals: set[int] = set()
        token = ""
        while True:
            answer = await self.world.search(statuses=STATUSES, page_size=2, page_token=token)
            seen += [document.name for document in answer.documents]
            totals.add(answer.total_size)
            token = answer.next_page_token
            if not token:
                return seen, totals

    def teardown(self) -> None:
        if hasattr(self, "world"):

            async def close() -> None:
                for service in self.world.opened:
                    await service.close()
                await self.world.pool.close()

            self.do(close())
        self.runner.close()


def test_lives_follow_the_model(document_database: str) -> None:
    """In a campaign as many as its time allows, a few at once, so that it may be cut into slices."""
    Lives.dsn = document_database
    Lives.done.clear()
    budget, wanted, at_once = Budget(), amount(5, 400), amount(5, 8)
    while Lives.done["lives"] < wanted and budget.left > 0:
        run_state_machine_as_test(
            Lives,
            settings=settings(
                max_examples=at_once,
                stateful_step_count=amount(12, 40),
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        publish("lives of a dossier", dict(Lives.done))
