"""What the gateway shows of random dossiers is what the rules let through, and nothing else tells of the rest.

The oracle (`tests.consent_oracle`) knows what happened to a dossier and what its documents are. Everyone then searches,
pages, counts and reads over FHIR; ids, totals, Lists, errors and ETags are compared with it, changes in between.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
import pytest
from google.protobuf.message import Message

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import coding_pb2
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from dmp.document.v1 import document_pb2
from ops.session import Statement
from services.consent.mapping import write_time
from services.document import codes
from services.runtime.errors import DmpError
from services.runtime.identifiers import new_health_id, person_name
from tests.consent_callers import acting
from tests.consent_oracle import Memory, Paper, Who, answer, sees
from tests.consent_service import operator, patient
from tests.faults.campaign import Budget, amount, publish
from tests.platform_calls import bearer, invoke, outcome_reason
from tests.platform_fixture import Patient, Platform, eventually, method
from tests.platform_statements import statement

pytestmark = pytest.mark.asyncio(loop_scope="session")

DOSSIERS: Final = amount(3, 400)
ROUNDS: Final = 2
CALLERS: Final = 6
_PAGE: Final = 4
_FORMAT: Final = coding_pb2.Coding(system="1.3.6.1.4.1.19376.1.2.3", code="urn:ihe:iti:xds:2017:mimeTypeSufficient")
_TYPES: Final = {
    "11488-4": "2.16.840.1.113883.6.1",
    "34842-5": "2.16.840.1.113883.6.1",
    "83901-9": "2.16.840.1.113883.6.1",
    "ATTEST-RESID": "1.2.250.1.213.1.1.4.12",
}
_FLAGS: Final = {
    "masked": "MASQUE_PS",
    "unseen": "INVISIBLE_PATIENT",
    "from_parents": "INVISIBLE_REPRESENTANTS_LEGAUX",
}
PEOPLE: Final = (
    ("physician", "899700000031", "1750000031"),
    ("physician", "899700000032", "1750000032"),
    ("nurse", "899700000033", "1750000031"),
    ("pharmacist", "899700000034", "1750000034"),
)
_FEEDER: Final = Who("physician", "899700000035", "1750000035")  # hands in what others wrote; nobody blocks him
MODES: Final = ("normal", "normal", "break_glass", "regulation")
_NOBODYS: Final = "A" * 64  # an id that this platform never gave


@dataclass
class Dossier:
    """One patient, what happened to the dossier, and its documents by uniqueId: what each is, and who wrote it."""

    platform: Platform
    patient: Patient
    chance: random.Random
    mother: int = field(default_factory=new_health_id)
    memory: Memory = field(default_factory=Memory)
    papers: dict[str, tuple[Paper, str]] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    binaries: dict[str, str] = field(default_factory=dict)

    def paper(self, unique_id: str, who: Who) -> Paper:
        """A document, as it is to somebody."""
        paper, author = self.papers[unique_id]
        return paper._replace(mine=who.id == author)

    def shown(self, who: Who, *, having: str = "") -> set[str]:
        """The uniqueIds that a search shows to somebody."""
        now = datetime.now(UTC)
        return {
            unique_id
            for unique_id, (paper, _) in self.papers.items()
            if (not having or getattr(paper, having)) and sees(self.memory, who, now, self.paper(unique_id, who))
        }

    # --- what is done -------------------------------------------------------------------------------------------------

    async def make(self, rpc: str, actor: ActingContext, /, **fields: Any) -> str:
        """A change of consent; the name of its refusal, empty when it is done."""
        request: Message = method(rpc).request(request_id=f"rights-{uuid.uuid4()}", **fields)
        try:
            await self.platform.session.call("consent", rpc, request, method(rpc).response, statement(actor))
        except DmpError as error:
            return error.reason_name
        return ""

    async def something(self) -> None:
        """One random change, remembered if it was made."""
        who = Who(*self.chance.choice(PEOPLE))
        what = self.chance.choice(
            ("grant", "grant", "grant", "revoke", "block", "block", "unblock", "prefer", "parent")
        )
        if what == "grant":
            await self.authorise(who, mt=who.kind == "physician" and self.chance.random() < 0.4)
        elif what == "prefer":
            await self.prefer(self.chance.choice(("break_glass", "regulation", "masked")), self.chance.random() < 0.6)
        elif what == "parent":
            await self.register()
        else:
            await self.decide(what, who, structure=self.chance.random() < 0.5)

    async def authorise(self, who: Who, *, mt: bool) -> None:
        """A professional declares himself."""
        now, name = datetime.now(UTC), self.patient.dossier
        stated = {"patient_consented": True, "attending_physician": mt}
        if not await self.make("GrantAuthorization", acting(who, 0), parent=name, **stated):
            self.memory.add(now, "grant", who.id, mt)

    async def prefer(self, which: str, value: bool) -> None:
        """What the patient wants in emergencies."""
        now, himself = datetime.now(UTC), patient(self.patient.health_id)
        stated = {"masked_shown_in_emergency" if which == "masked" else f"{which}_opposed": value}
        if not await self.make("UpdatePreferences", himself, name=self.patient.dossier, **stated):
            self.memory.add(now, "prefer", which, value)

    async def register(self) -> None:
        """The mother represents."""
        until = datetime.now(UTC) + timedelta(days=300)
        refused = await self.make(
            "RegisterRepresentative",
            operator(),
            parent=self.patient.dossier,
            person=person_name(self.mother),
            kind=pb.REPRESENTATION_KIND_PARENT,
            end_time=write_time(until),
            documents_seen=True,
        )
        if not refused:
            self.memory.add(datetime.now(UTC), "represent", self.mother, until)

    async def decide(self, what: str, who: Who, *, structure: bool) -> None:
        """The patient revokes, blocks or unblocks a professional, or where he works."""
        kind = pb.GRANTEE_KIND_STRUCTURE if structure else pb.GRANTEE_KIND_PROFESSIONAL
        whom = who.structure if structure else who.id
        rpc = {"revoke": "RevokeAuthorization", "block": "BlockProfessional", "unblock": "UnblockProfessional"}[what]
        grantee, himself = pb.Grantee(kind=kind, id=whom), patient(self.patient.health_id)
        now = datetime.now(UTC)
        if not await self.make(rpc, himself, parent=self.patient.dossier, grantee=grantee):
            self.memory.add(now, what, whom)

    async def feed(self, count: int) -> None:
        """Documents of several authors, types and flags, in one submission."""
        submitted = []
        for _ in range(count):
            unique_id, author = f"2.25.{uuid.uuid4().int}", self.chance.choice(PEOPLE)[1]
            flag = self.chance.choice(("", "", *_FLAGS))
            # What both the patient and the attending physician must not see would be nobody's to find again.
            types = [code for code in _TYPES if flag != "unseen" or code != "ATTEST-RESID"]
            paper = Paper(self.chance.choice(types), **({flag: True} if flag else {}))
            self.papers[unique_id] = paper, author
            submitted.append(self._document(unique_id, author, paper, _FLAGS.get(flag, "")))
        request = document_pb2.SubmitDocumentsRequest(
            parent=self.patient.dossier,
            submission_set=document_pb2.SubmissionSet(unique_id=f"2.25.{uuid.uuid4().int}", source_id="1.2.250.1.997"),
            documents=submitted,
            request_id=f"rights-{uuid.uuid4()}",
        )
        answer_type, said = document_pb2.SubmitDocumentsResponse, statement(acting(_FEEDER, 0))
        await self.platform.session.call("document", "SubmitDocuments", request, answer_type, said)

    def _document(self, unique_id: str, author: str, paper: Paper, flag: str) -> document_pb2.SubmittedDocument:
        person = self.patient.person
        document = document_pb2.Document(
            unique_id=unique_id,
            mime_type="text/plain",
            format_code=_FORMAT,
            title="Compte rendu",
            authors=[
                coding_pb2.Author(id=coding_pb2.Identifier(system="1.2.250.1.71.4.2.1", value=author), name="A B")
            ],
            type_code=coding_pb2.Coding(system=_TYPES[paper.type_code], code=paper.type_code),
            facility_type=coding_pb2.Coding(system="1.2.250.1.71.4.2.4", code="SA07"),
            practice_setting=coding_pb2.Coding(system="1.2.250.1.213.1.1.4.9", code="AMBULATOIRE"),
            source_patient_id=coding_pb2.Identifier(system="1.2.3.4.5", value="LOCAL-1"),
            source_patient_info=document_pb2.SourcePatientInfo(
                identifiers=[coding_pb2.Identifier(system=person.nir_oid, value=person.nir)],
                family_names=[person.birth_family],
                given_names=list(person.given),
                sex=person.sex,
                birth_date=person.birth_date.isoformat(),
            ),
        )
        document.create_time.CopyFrom(write_time(datetime(2026, 1, 2, tzinfo=UTC)))
        document.confidentiality.add(system="2.16.840.1.113883.5.25", code="N")
        if flag:
            document.confidentiality.add(system=codes.VISIBILITY, code=flag)
        return document_pb2.SubmittedDocument(document=document, content=unique_id.encode())

    # --- what is asked ------------------------------------------------------------------------------------------------

    async def get(self, path: str, who: Who, **parameters: str) -> httpx.Response:
        """A request of somebody."""
        return await self.platform.get(path, self.as_said(who), **parameters)

    def as_said(self, who: Who) -> Statement:
        return statement(acting(who, self.patient.health_id))

    async def search(self, who: Who, kind: str = "DocumentReference", **more: str) -> tuple[list[Any], int]:
        """Every page of a search: the resources, and the one total that all pages told."""
        parameters = {"patient.identifier": self.patient.identifier, "_count": str(_PAGE), **more}
        response = await self.get(f"/{kind}", who, **parameters)
        resources: list[Any] = []
        totals = set()
        while True:
            assert response.status_code == 200, response.text
            page = response.json()
            totals.add(page["total"])
            entries = [entry["resource"] for entry in page.get("entry", [])]
            resources += entries
            following = [link["url"] for link in page["link"] if link["relation"] == "next"]
            if not following:
                break
            assert len(entries) == _PAGE  # rights are applied before paging: no page is short but the last
            response = await self.get(following[0], who)
        assert len(totals) == 1
        return resources, totals.pop()

    async def learn_ids(self) -> None:
        """The ids under which FHIR shows the documents, from the two who together see all of them."""
        first = Who(*PEOPLE[0])
        await self.authorise(first, mt=True)
        for who in (first, Who("patient")):
            for resource in (await self.search(who))[0]:
                self.ids[unique_id_of(resource)] = resource["id"]
                self.binaries[unique_id_of(resource)] = resource["content"][0]["attachment"]["url"]
        assert self.ids.keys() == self.papers.keys()


def unique_id_of(resource: Mapping[str, Any]) -> str:
    """The producer's uniqueId of a DocumentReference."""
    return str(resource["masterIdentifier"]["value"]).removeprefix("urn:oid:")


async def compare(dossier: Dossier, who: Who) -> None:
    """Everything that somebody is told, with what the oracle says."""
    entered = answer(dossier.memory, who, "SEARCH", datetime.now(UTC))
    if entered.reason:
        for kind, more in (("DocumentReference", {}), ("List", {"code": "submissionset", "status": "current"})):
            response = await dossier.get(f"/{kind}", who, **{"patient.identifier": dossier.patient.identifier, **more})
            assert (response.status_code, outcome_reason(response.json())) == (403, entered.reason), (who, kind)
        await compare_reads(dossier, who, set(), entered.reason)
        return
    shown = dossier.shown(who)
    resources, total = await dossier.search(who)
    assert ({unique_id_of(each) for each in resources}, total) == (shown, len(shown)), who
    assert len(resources) == total
    for name in ("_include", "_revinclude"):
        asked = {"patient.identifier": dossier.patient.identifier, name: "List:item"}
        refused = await dossier.get("/DocumentReference", who, **asked)
        assert (refused.status_code, refused.json()["issue"][0]["expression"]) == (400, [name]), who
    for having, flag in _FLAGS.items():
        asked = {"patient.identifier": dossier.patient.identifier, "_summary": "count", "security-label": flag}
        counted = (await dossier.get("/DocumentReference", who, **asked)).json()
        assert counted["total"] == len(dossier.shown(who, having=having)), (who, flag)
        assert "entry" not in counted
    lists = (await dossier.search(who, "List", code="submissionset", status="current"))[0]
    listed = [item["item"]["reference"].rpartition("/")[2] for each in lists for item in each.get("entry", [])]
    assert sorted(listed) == sorted(dossier.ids[unique_id] for unique_id in shown), who
    await compare_reads(dossier, who, shown, "")


async def compare_reads(dossier: Dossier, who: Who, shown: set[str], entry: str) -> None:
    """The metadata and the bytes of some documents."""
    nobodys = await dossier.get(f"/DocumentReference/{_NOBODYS}", who)
    for unique_id in dossier.chance.sample(sorted(dossier.ids), min(3, len(dossier.ids))):
        response = await dossier.get(f"/DocumentReference/{dossier.ids[unique_id]}", who)
        content = await dossier.get(dossier.binaries[unique_id], who)
        readable = answer(dossier.memory, who, "READ", datetime.now(UTC), dossier.paper(unique_id, who)).reason
        if unique_id in shown:
            assert (response.status_code, unique_id_of(response.json())) == (200, unique_id), who
            assert "etag" in response.headers
        else:
            told = (response.status_code, outcome_reason(response.json()))
            assert told == ((403, entry) if entry else (404, "DOCUMENT_NOT_FOUND")), (who, unique_id)
            assert not {"etag", "last-modified"} & response.headers.keys()
            if not entry:  # absent for this caller: the same as one that was never there
                assert without_ids(response) == without_ids(nobodys)
        assert (content.status_code == 200) == (not readable), (who, unique_id, readable, content.text)
        if content.status_code == 200:
            assert content.content == unique_id.encode()
        else:
            assert "etag" not in content.headers
            assert unique_id not in content.text


def without_ids(response: httpx.Response) -> Any:
    """What an error says, without what differs from call to call."""
    return response.status_code, [
        {key: value for key, value in issue.items() if key not in ("expression", "diagnostics")}
        for issue in response.json()["issue"]
    ]


def everyone(dossier: Dossier) -> Sequence[Who]:
    """Some of those who may come, in some mode."""
    chance = dossier.chance
    people = [Who(*person, chance.choice(MODES)) for person in PEOPLE]
    others = [Who("staff", structure="1750000031"), Who("patient"), Who("representative", person=dossier.mother)]
    return chance.sample([*people, *others], CALLERS)


async def one_dossier(platform: Platform, seed: int) -> None:
    """A dossier's life, and what everyone is told of it."""
    chance = random.Random(seed)
    known = await platform.registered()
    await known.acts.open(known.health_id)
    dossier = Dossier(platform, known, chance)
    dossier.memory.add(datetime.now(UTC), "open")
    for _ in range(2):
        await dossier.feed(chance.randint(3, 5))
    await dossier.learn_ids()
    for _ in range(ROUNDS):
        for _ in range(chance.randint(3, 6)):
            await dossier.something()
        await asyncio.gather(*(compare(dossier, who) for who in everyone(dossier)))
    who = Who(*chance.choice(PEOPLE))  # and always: who was let in, until the place where he works is shut out
    await dossier.authorise(who, mt=False)
    await compare(dossier, who)
    await dossier.decide("block", who, structure=True)
    await compare(dossier, who)


@pytest.mark.timeout(3600)
async def test_the_gateway_shows_of_random_dossiers_what_the_rules_let_through(platform: Platform) -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    budget, compared = Budget(), 0
    for number in range(DOSSIERS):
        if budget.left <= 0:
            break
        try:
            await one_dossier(platform, seed + number)
        except AssertionError as error:
            error.add_note(f"seed {seed + number}")
            raise
        compared += ROUNDS * CALLERS
        publish("rights", {"dossiers": number + 1, "of": DOSSIERS, "views compared": compared, "wrong": 0})


async def test_the_trail_says_what_let_each_caller_in_and_from_where(platform: Platform) -> None:
    known = await platform.patient(authorised=False)
    attending, colleague, stranger = (Who(*person) for person in PEOPLE[:3])
    dossier = Dossier(platform, known, random.Random(7))
    await dossier.authorise(attending, mt=True)
    await dossier.authorise(colleague, mt=False)
    callers = {
        attending: audit_pb2.ACCESS_BASIS_ATTENDING_PHYSICIAN,
        colleague: audit_pb2.ACCESS_BASIS_AUTHORIZATION,
        stranger._replace(mode="break_glass"): audit_pb2.ACCESS_BASIS_BREAK_GLASS,
        stranger._replace(mode="regulation"): audit_pb2.ACCESS_BASIS_REGULATION,
        Who("patient"): audit_pb2.ACCESS_BASIS_PATIENT,
    }
    place = await platform.log_size()
    await dossier.feed(1)
    for who in callers:
        await dossier.search(who)
    refused = await dossier.get("/DocumentReference", stranger, **{"patient.identifier": known.identifier})
    assert refused.status_code == 403
    expected = [(audit_pb2.OUTCOME_SUCCESS, basis) for basis in callers.values()]
    events = await eventually(
        lambda: platform.log_since(place), lambda seen: "document.submit" in {event.action for event in seen}
    )
    mine = [event for event in events if event.health_id == known.health_id]
    searched = [(event.outcome, event.basis) for event in mine if event.action == "document.search"]
    assert searched == [*expected, (audit_pb2.OUTCOME_DENIED, audit_pb2.ACCESS_BASIS_UNSPECIFIED)]
    assert {event.basis for event in mine if event.action == "document.submit"} == {audit_pb2.ACCESS_BASIS_FEEDING}
    assert {event.network_address for event in mine} == {"127.0.0.1"}


@pytest.mark.parametrize("way", ["relay", "direct"])
async def test_nobody_can_say_himself_from_where_he_calls(platform: Platform, way: str) -> None:
    known = await platform.patient()
    token = await platform.token(way, known.caregiver.statement())
    forged = [*bearer(token), ("x-forwarded-for", "203.0.113.9")]
    access, place = method("GetDossier"), await platform.log_size()
    await invoke(platform.channel(way, access), access.path, pb.GetDossierRequest(name=known.dossier), forged)
    headers = dict(forged)
    await platform.session.http.get(
        "/DocumentReference", params={"patient.identifier": known.identifier}, headers=headers
    )
    events = [event for event in await platform.log_since(place) if event.health_id == known.health_id]
    assert {event.network_address for event in events} == {"127.0.0.1"}
