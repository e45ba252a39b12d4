"""People are linked, parted, split and linked again in any order, documents submitted, replaced and read in between:
the register, the dossiers, the documents and the trails of the running platform are what a model of a page says.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from google.protobuf.message import Message
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import coding_pb2
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from dmp.identity.v1 import identity_pb2
from ops.demo.cda_document import DocumentKind
from ops.demo.people import DemoPerson
from ops.demo_platform import person_message
from ops.local.registrations import INTERNAL
from ops.session import Statement
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_of, person_name
from tests.faults.campaign import CAMPAIGN, Budget, amount, publish
from tests.platform_fixture import Patient, Platform, eventually, method

pytestmark = pytest.mark.asyncio(loop_scope="session")

PEOPLE: Final = 4
_ACTS: Final = ("link", "link", "unlink", "split", "submit", "submit", "replace", "read", "shut")
_FORMAT: Final = coding_pb2.Coding(system="1.3.6.1.4.1.19376.1.2.3", code="urn:ihe:iti:xds:2017:mimeTypeSufficient")
_APPROVED: Final = document_pb2.DOCUMENT_STATUS_APPROVED
_DEPRECATED: Final = document_pb2.DOCUMENT_STATUS_DEPRECATED
_COUNTED: Final = frozenset(
    {
        "document.submit",
        "document.search",
        "document.read",
        "person.link",
        "person.unlink",
        "person.split",
        "dossier.open",
        "dossier.merge",
        "dossier.part",
        "authorization.block",
        "authorization.unblock",
    }
)
_DONE: Final[Counter[str]] = Counter()
_BUDGET: Final = Budget()


@dataclass
class Paper:
    """A document: in whose dossier it lies, whom it says that it is about, and whether another took its place."""

    home: int
    about: int
    seed: int
    version: int
    content: bytes
    replaced: bool = False


@dataclass
class Life:
    """What has happened to a few people of the platform, and what must therefore be so. Everybody is a number."""

    platform: Platform
    everyone: list[Patient] = field(default_factory=list)
    into: dict[int, int] = field(default_factory=dict)
    """Who is merged into whom."""
    shut: set[int] = field(default_factory=set)
    """On whose dossiers the second physician is blocked."""
    lost: set[int] = field(default_factory=set)
    """Where the second physician's authorisation ended by that; it holds on the dossier that it was given for."""
    papers: dict[str, Paper] = field(default_factory=dict)
    events: Counter[tuple[int, str]] = field(default_factory=Counter)
    """How often each action must stand in each dossier's own trail."""

    def __post_init__(self) -> None:
        self.physician, self.other = self.platform.caregiver(), self.platform.caregiver()

    # --- the model ---

    def root(self, one: int) -> int:
        while one in self.into:
            one = self.into[one]
        return one

    def together(self, one: int) -> list[int]:
        return [each for each in range(len(self.everyone)) if self.root(each) == self.root(one)]

    def health_ids(self, people: Iterable[int]) -> list[int]:
        return [self.everyone[each].health_id for each in people]

    def shown(self, one: int, *, replaced: bool = False) -> list[str]:
        """The documents that are read in a dossier."""
        home = set(self.together(one))
        return sorted(name for name, paper in self.papers.items() if paper.home in home and paper.replaced <= replaced)

    def went(self, one: int) -> str:
        """The refusal of what is for a survivor, with who that is."""
        return f"PERSON_MERGED {person_name(self.everyone[self.root(one)].health_id)}"

    def moved(self, before: dict[int, int]) -> None:
        """What linking and parting must have done to dossiers."""
        for one in range(len(self.everyone)):
            root = self.root(one)
            if root != before[one]:
                self.events[one, "dossier.part" if root == one else "dossier.merge"] += 1

    # --- acts ---

    async def ask(self, rpc: str, request: Message, who: Statement | None = None, *, internal: bool = False) -> Any:
        """Any call, as the first physician; the reason of a refusal instead of an answer."""
        access = method(rpc)
        who = who or self.physician.statement()
        who = Statement(INTERNAL, who.fields) if internal else who
        if access.mutation:
            request.request_id = self.platform.request_id()  # type: ignore[attr-defined]
        service = access.path.split(".")[1]
        try:
            return await self.platform.session.call(service, rpc, request, access.response, who, timeout=60)
        except DmpError as error:
            merged_into = error.metadata.get("merged_into", "")
            return f"{error.reason_name} {merged_into}".strip()

    async def arrive(self, person: DemoPerson, health_id: int = 0) -> None:
        """Somebody of whom both physicians look after the dossier."""
        acts = self.platform.acts(self.physician.statement())
        if not health_id:
            health_id = await acts.register(person_message(person))
        self.everyone.append(Patient(health_id, person, self.physician, acts))
        await acts.open(health_id)
        await asyncio.gather(acts.authorise(health_id), self.platform.acts(self.other.statement()).authorise(health_id))
        self.events[len(self.everyone) - 1, "dossier.open"] += 1

    async def act(self, what: str, one: int, other: int) -> None:
        one, other = one % len(self.everyone), other % len(self.everyone)
        await getattr(self, f"_{what}")(one, other)
        _DONE[what] += 1

    async def _link(self, one: int, other: int) -> None:
        survivor, merged = self.health_ids((one, other))
        request = identity_pb2.LinkPeopleRequest(name=person_name(survivor), merged=person_name(merged), reason="one")
        answer = await self.ask("LinkPeople", request, internal=True)
        if one == other:
            assert answer == "INVALID_FIELD"
        elif one in self.into or other in self.into:
            assert answer == self.went(one if one in self.into else other)
        else:
            before = {each: self.root(each) for each in range(len(self.everyone))}
            self.into[other] = one
            for each in (one, other):
                self.events[each, "person.link"] += 1
            self.moved(before)
            assert sorted(answer.linked) == self.names(each for each in self.together(one) if each != one)

    async def _unlink(self, one: int, _: int) -> None:
        request = identity_pb2.UnlinkPeopleRequest(name=person_name(self.everyone[one].health_id), reason="two")
        answer = await self.ask("UnlinkPeople", request, internal=True)
        if one not in self.into:
            assert answer == "PERSON_NOT_LINKED"
            return
        before = {each: self.root(each) for each in range(len(self.everyone))}
        for each in {one, self.into.pop(one), before[one]}:
            self.events[each, "person.unlink"] += 1
        self.moved(before)
        assert sorted(answer.linked) == self.names(each for each in self.together(one) if each != one)

    async def _split(self, one: int, _: int) -> None:
        person = self.platform.person()
        stated = person_message(person)
        request = identity_pb2.SplitPersonRequest(
            name=person_name(self.everyone[one].health_id), traits=stated.traits, reason="two people in one record"
        )
        answer = await self.ask("SplitPerson", request, internal=True)
        if one in self.into:
            assert answer == self.went(one)
            return
        name = answer.split_off.name
        number = identity_pb2.AddIdentifierRequest(name=name, identifier=stated.identifiers[0], reason="its own")
        assert (await self.ask("AddIdentifier", number, internal=True)).person.name == name
        await self.arrive(person, dossier_of(name, "name"))
        self.events[one, "person.split"] += 1
        self.events[len(self.everyone) - 1, "person.split"] += 1

    async def _submit(self, one: int, other: int) -> None:
        await self.submit(one, Paper(one, other, seed=len(self.papers) + 1, version=1, content=b""))

    async def _replace(self, one: int, other: int) -> None:
        current = [paper for paper in self.papers.values() if paper.home in self.together(one) and not paper.replaced]
        if current:
            old = current[other % len(current)]
            await self.submit(one, Paper(one, old.about, old.seed, old.version + 1, b""), old)

    async def submit(self, one: int, paper: Paper, old: Paper | None = None) -> None:
        """A document for a dossier, about anybody; refused there if the dossier was merged, or it is of another."""
        about = self.everyone[paper.about]
        paper.content = about.cda(DocumentKind.CONSULTATION, paper.seed, version=paper.version)
        request = document_pb2.SubmitDocumentsRequest(parent=self.everyone[one].dossier)
        request.submission_set.unique_id, request.submission_set.source_id = f"2.25.{uuid.uuid4().int}", "1.2.250.1.9"
        document = document_pb2.Document(mime_type="text/xml", format_code=_FORMAT)
        request.documents.add(document=document, content=paper.content)
        answer = await self.ask("SubmitDocuments", request)
        if one in self.into:
            assert answer == f"DOSSIER_MERGED {self.everyone[self.root(one)].dossier}"
            return
        if paper.about not in self.together(one):
            assert answer == "PATIENT_MISMATCH"
            return
        self.papers[answer.documents[0].name[-36:]] = paper
        self.events[one, "document.submit"] += 1
        if old is not None:
            old.replaced = True
            if old.home != one:
                self.events[old.home, "document.submit"] += 1
        request.submission_set.unique_id = f"2.25.{uuid.uuid4().int}"
        assert await self.ask("SubmitDocuments", request) == "DUPLICATE_UNIQUE_ID"

    async def _read(self, one: int, other: int) -> None:
        shown = self.shown(one, replaced=True)
        if shown:
            patient, wanted = self.everyone[one], shown[other % len(shown)]
            _, content = await patient.acts.read(f"{patient.dossier}/documents/{wanted}")
            paper = self.papers[wanted]
            assert content == paper.content
            for each in {one, paper.home}:
                self.events[each, "document.read"] += 1

    async def _shut(self, one: int, _: int) -> None:
        """The patient shuts the second physician out, or lets him in again."""
        patient = self.everyone[one]
        grantee = consent_pb2.Grantee(kind=consent_pb2.GRANTEE_KIND_PROFESSIONAL, id=self.other.professional.idnps)
        what = consent_pb2.UnblockProfessionalRequest if one in self.shut else consent_pb2.BlockProfessionalRequest
        request = what(parent=patient.dossier, grantee=grantee)
        rpc = type(request).__name__.removesuffix("Request")
        answer = await self.ask(rpc, request, Statement.patient(patient.health_id))
        assert answer.epoch
        self.events[one, "authorization.unblock" if one in self.shut else "authorization.block"] += 1
        self.shut ^= {one}
        self.lost.add(one)

    # --- what must be so ---

    def names(self, people: Iterable[int]) -> list[str]:
        return sorted(map(person_name, self.health_ids(people)))

    async def check(self) -> None:
        everyone = range(len(self.everyone))
        await asyncio.gather(*(self.check_register(each) for each in everyone))
        await asyncio.gather(*(self.check_dossier(each) for each in everyone))
        trails = await asyncio.gather(*(self.own_trail(each) for each in everyone))
        for one in everyone:
            assert trails[one] == set().union(*(trails[each] for each in self.together(one)))
        _DONE["people checked"] += len(self.everyone)

    async def check_register(self, one: int) -> None:
        """Where the person and its number lead, and who was merged into it."""
        root, patient = self.root(one), self.everyone[one]
        got = await self.ask("GetPerson", identity_pb2.GetPersonRequest(name=person_name(patient.health_id)))
        into = person_name(self.everyone[root].health_id)
        assert got.person.merged_into == ("" if root == one else into)
        under = [] if root != one else [each for each in self.together(one) if each != one]
        assert sorted(got.linked) == self.names(under)
        number = coding_pb2.Identifier(system=patient.person.nir_oid, value=patient.person.nir)
        assert await patient.acts.resolve(number) == self.everyone[root].health_id

    async def check_dossier(self, one: int) -> None:
        """Its state, and what each physician finds in it."""
        root, patient = self.root(one), self.everyone[one]
        dossier = (await self.ask("GetDossier", consent_pb2.GetDossierRequest(name=patient.dossier))).dossier
        state = consent_pb2.DOSSIER_STATE_OPEN if root == one else consent_pb2.DOSSIER_STATE_MERGED
        assert dossier.state == state
        assert dossier.merged_into == ("" if root == one else self.everyone[root].dossier)
        await self.find(one, replaced=False)
        await self.find(one, replaced=True)
        wanted = document_pb2.SearchDocumentsRequest(parent=patient.dossier)
        answer = await self.ask("SearchDocuments", wanted, self.other.statement())
        if not self.shut.isdisjoint(self.together(one)):
            assert answer == "BLOCKED"
        elif one in self.lost:
            assert answer == "AUTHORIZATION_MISSING"
        else:
            self.searched(one, self.shown(one))
            assert getattr(answer, "total_size", answer) == len(self.shown(one))

    async def find(self, one: int, *, replaced: bool) -> None:
        """Nothing lost, nothing doubled, each where it says that it is."""
        patient, shown = self.everyone[one], self.shown(one, replaced=replaced)
        request = document_pb2.SearchDocumentsRequest(parent=patient.dossier, page_size=100)
        request.statuses.extend((_APPROVED, _DEPRECATED) if replaced else (_APPROVED,))
        found = await self.ask("SearchDocuments", request)
        assert sorted(document.name[-36:] for document in found.documents) == shown
        assert found.total_size == len(shown)
        for document in found.documents:
            assert document.name.startswith(patient.dossier)
            taken = self.papers[document.name[-36:]].replaced
            assert document.status == (_DEPRECATED if taken else _APPROVED)
        self.searched(one, shown)

    def searched(self, one: int, shown: Iterable[str]) -> None:
        for each in {one, *(self.papers[name].home for name in shown)}:
            self.events[each, "document.search"] += 1

    async def own_trail(self, one: int) -> set[bytes]:
        """What the patient sees of the trail, each event once, with all that must stand in it of each dossier."""
        dossiers = {health_id: each for each in self.together(one) for health_id in self.health_ids((each,))}
        expected = {key: count for key, count in self.events.items() if key[0] in dossiers.values()}

        async def seen() -> list[audit_pb2.AuditEvent]:
            events = await self.platform.trail(self.everyone[one].health_id)
            return [each for each in events if each.outcome == audit_pb2.OUTCOME_SUCCESS and each.action in _COUNTED]

        def counted(events: Iterable[audit_pb2.AuditEvent]) -> dict[tuple[int, str], int]:
            return dict(Counter((dossiers[event.health_id], event.action) for event in events))

        events = await eventually(seen, lambda events: counted(events) == expected, seconds=60, every=0.2)
        assert counted(events) == expected
        ids = {event.event_id for event in events}
        assert len(ids) == len(events)
        return ids


histories = st.lists(
    st.tuples(st.sampled_from(_ACTS), st.integers(0, 7), st.integers(0, 7)), min_size=8, max_size=amount(14, 40)
)
EVERYTHING: Final = (
    *(("submit", one, one) for one in range(PEOPLE)),
    *(("link", 0, 1), ("submit", 0, 1), ("replace", 0, 1), ("submit", 1, 1), ("read", 1, 0), ("shut", 1, 0)),
    *(("split", 0, 0), ("link", 2, 0), ("replace", 2, 3), ("split", 0, 0), ("unlink", 1, 0), ("replace", 1, 0)),
    *(("link", 4, 1), ("link", 1, 3), ("unlink", 0, 0), ("link", 0, 4), ("replace", 0, 1), ("submit", 0, 2)),
)
"""Each act as it succeeds and as it is refused, people linked to others than before."""


@pytest.mark.timeout(3600 if CAMPAIGN else 240)
@settings(max_examples=amount(2, 1000), deadline=None)
@example(history=EVERYTHING)
@given(history=histories)
async def test_in_any_order_nothing_is_lost_or_doubled_and_every_trail_is_whole(
    platform: Platform, history: Sequence[tuple[str, int, int]]
) -> None:
    if _BUDGET.left < 0:
        return
    life = Life(platform)
    for _ in range(PEOPLE):
        await life.arrive(platform.person())
    for number, (what, one, other) in enumerate(history):
        await life.act(what, one, other)
        if number % 10 == 9:
            await life.check()
    await life.check()
    _DONE["histories"] += 1
    publish("links", _DONE)
