"""What a submission becomes, decided under the lock of its dossier: places, names, times, rows, seals, answer, event.

No I/O: what the dossier holds comes in (`Surroundings`), what is to be written goes out (`Admitted`). The rules of
succession are `succession`; the statements are `store.writing`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import coding_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2
from services.document import author_names, codes, envelope, titles
from services.document.access import PATIENT_DEPOSITED, month_before
from services.document.authorship import Authorship, author_of
from services.document.cda import CdaHeader
from services.document.entries import revision, shown, state_of
from services.document.envelope import ContentPointer
from services.document.filing import Filing, folder_id_of
from services.document.lifecycle import REPLACE, SUBMIT, changed
from services.document.metadata import flags_of
from services.document.preparation import Prepared
from services.document.store.rows import DocumentRow
from services.document.store.writing import (
    Fact,
    Moment,
    NewContent,
    NewDocument,
    NewSet,
    Revision,
    Submission,
    Taken,
)
from services.document.succession import Newcomer, Place, Wanted, place_all
from services.document.times import instant, is_valid, timestamp
from services.document.unique_ids import UniqueIds, spellings
from services.runtime.context import Call
from services.runtime.dossier_keys import DossierKeyBatch
from services.runtime.errors import DmpError, FieldViolation
from services.runtime.identifiers import document_name, submission_set_name, uuid7
from services.runtime.sealing import DossierKey
from services.runtime.trail import build_event

_CDA_RELATIONS: Final = {
    "RPLC": document_pb2.RELATIONSHIP_TYPE_REPLACES,
    "APND": document_pb2.RELATIONSHIP_TYPE_APPENDS,
    "XFRM": document_pb2.RELATIONSHIP_TYPE_TRANSFORMS,
}


@dataclass(frozen=True, slots=True)
class Prospect:
    """A submission that is complete and verified, and not yet admitted. `request` is not modified."""

    call: Call
    request: document_pb2.SubmitDocumentsRequest
    prepared: Sequence[Prepared]
    document_ids: Sequence[uuid.UUID]
    epoch: int
    basis: int
    uploads: Sequence[uuid.UUID]
    dossiers: Sequence[int]
    """The dossier that it is for, and the others of the person, which are one with it (decision 0023)."""


class Identifiers(NamedTuple):
    """By what the documents, sets and folders that bear on a submission are found."""

    unique_ids: list[bytes]
    sets: list[bytes]
    documents: list[uuid.UUID]
    submission_set: bytes
    folders: list[bytes]
    folder_ids: list[uuid.UUID]


class Surroundings(NamedTuple):
    """What the dossier, and those linked with it, hold that bears on a submission."""

    documents: Sequence[Fact]
    taken: Sequence[Taken]


class Admitted(NamedTuple):
    """What a submission becomes."""

    submission: Submission
    answer: document_pb2.SubmitDocumentsResponse
    events: Sequence[audit_pb2.AuditEvent]
    """The submission's, and one for each other dossier in which it replaces documents."""


class Admission:
    """Decides about submissions."""

    def __init__(self, authorship: Authorship, unique_ids: UniqueIds) -> None:
        self._authorship = authorship
        self._unique_ids = unique_ids
        self._filing = Filing(unique_ids)

    def wanted(self, prospect: Prospect) -> Identifiers:
        """What must be read before `admit`."""
        newcomers = self._newcomers(prospect)
        relations = [wanted for newcomer in newcomers for wanted in newcomer.relations]
        stated = [wanted.unique_id_digest for wanted in relations]
        named = [folder for submitted in prospect.request.documents for folder in submitted.folders]
        ours = f"dossiers/{prospect.request.parent[9:]}/folders/"
        return Identifiers(
            [*(n.unique_id_digest for n in newcomers), *(digest for digest in stated if digest is not None)],
            [n.set_digest for n in newcomers if n.set_digest is not None],
            [wanted.document_id for wanted in relations if wanted.document_id is not None],
            self._unique_ids.of_set(prospect.request.submission_set.unique_id),
            [
                *(self._unique_ids.of_folder(folder.unique_id) for folder in prospect.request.folders),
                *(self._unique_ids.of_folder(folder) for folder in named if not folder.startswith("dossiers/")),
            ],
            [folder_id_of(folder) for folder in named if folder.startswith(ours)],
        )

    def admit(
        self,
        prospect: Prospect,
        keys: DossierKeyBatch,
        moments: Mapping[int, Moment],
        around: Surroundings,
        placed: Mapping[uuid.UUID, NewContent],
    ) -> Admitted:
        """What is to be written, or the DmpError that says why not."""
        request, call = prospect.request, prospect.call
        key, moment = keys[call.health_id], moments[call.health_id]
        set_digest = self._unique_ids.of_set(request.submission_set.unique_id)
        if any(taken.folder_id is None and taken.unique_id_digest == set_digest for taken in around.taken):
            field = FieldViolation("submission_set.unique_id", "unique", "the dossier holds a submission set with it")
            raise DmpError(reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID, fields=(field,))
        set_id, submitted_at = uuid7(), _submitted_at(prospect, moment)
        places = place_all(self._newcomers(prospect), around.documents, month_before(submitted_at))
        answer = document_pb2.SubmitDocumentsResponse(submission_set=request.submission_set)
        self._complete_set(answer.submission_set, prospect, set_id, submitted_at)
        folders, folder_ids = self._filing.folders(request, around.taken, key, answer, moment)
        contents: dict[uuid.UUID, NewContent] = {}
        new: list[NewDocument] = []
        for index, place in enumerate(places):
            made = self._document(prospect, index, place, key, (moment, submitted_at), set_id, folder_ids[index])
            answer.documents.append(made[1])
            new.append(made[0])
            if made[0].content_id not in contents:
                contents[made[0].content_id] = placed.get(made[0].content_id) or _content(
                    key, made[0].content_id, prospect.prepared[index]
                )
        revisions = [
            _replaced(keys[row.health_id], row, moments[row.health_id], prospect.document_ids[index])
            for index, place in enumerate(places)
            for row in place.replaces
        ]
        submission = Submission(
            call.health_id,
            {health_id: moments[health_id] for health_id in prospect.dossiers},
            self._set(key, set_id, set_digest, answer.submission_set, submitted_at),
            new,
            list(contents.values()),
            folders,
            list({folder for ids in folder_ids for folder in ids} - {folder.folder_id for folder in folders}),
            revisions,
            prospect.uploads,
        )
        return Admitted(submission, answer, _events(prospect, answer, revisions))

    def _newcomers(self, prospect: Prospect) -> list[Newcomer]:
        return [
            self._newcomer(index, document_id, prepared, prospect.request.documents[index].relationships)
            for index, (document_id, prepared) in enumerate(zip(prospect.document_ids, prospect.prepared, strict=True))
        ]

    def _newcomer(
        self,
        index: int,
        document_id: uuid.UUID,
        prepared: Prepared,
        relationships: Sequence[document_pb2.Relationship],
    ) -> Newcomer:
        document, flags = prepared.document, flags_of(prepared.document)
        return Newcomer(
            index=index,
            document_id=document_id,
            unique_id_digest=self._unique_ids.digest(document.unique_id),
            set_digest=self._unique_ids.of_cda_set(document.set_id) if document.set_version else None,
            set_version=document.set_version or None,
            relations=(
                *(self._stated(relationship) for relationship in relationships),
                *self._from_header(prepared.header, relationships),
            ),
            masked=codes.MASKED_FROM_PROFESSIONALS in flags,
            invisible_patient=codes.INVISIBLE_TO_PATIENT in flags,
            invisible_representatives=codes.INVISIBLE_TO_REPRESENTATIVES in flags,
            by_patient=document.type_code.code.startswith(PATIENT_DEPOSITED),
        )

    def _stated(self, relationship: document_pb2.Relationship) -> Wanted:
        target = uuid.UUID(relationship.target[-36:]) if relationship.target else None
        digest = None if target is not None else self._unique_ids.digest(relationship.target_unique_id)
        return Wanted(relationship.type, target, digest, relationship.expected_version, stated=True)

    def _from_header(self, header: CdaHeader | None, stated: Sequence[document_pb2.Relationship]) -> list[Wanted]:
        """The relations that a CDA's header states, and the request does not repeat."""
        if header is None:
            return []
        repeated = {(r.type, r.target_unique_id) for r in stated}
        found: list[Wanted] = []
        for parent in header.parents:
            kind = _CDA_RELATIONS[parent.relation]
            names = spellings(parent.document_id)
            if not any((kind, name) in repeated for name in names):
                digest = self._unique_ids.digest(parent.document_id.unique_id)
                found.append(Wanted(kind, None, digest, 0, stated=False))
        return found

    def _document(
        self,
        prospect: Prospect,
        index: int,
        place: Place,
        key: DossierKey,
        moments: tuple[Moment, datetime],
        set_id: uuid.UUID,
        folder_ids: list[uuid.UUID],
    ) -> tuple[NewDocument, document_pb2.Document]:
        """The row of a document, and the document as it is shown; `moments` are now, and when it was submitted."""
        moment, submitted_at = moments
        prepared, health_id = prospect.prepared[index], prospect.call.health_id
        document = document_pb2.Document()
        document.CopyFrom(prepared.document)
        for kind, target in place.related:
            document.relationships.add(type=kind, target=document_name(health_id, target))
        content_id = self._unique_ids.of_content(health_id, prepared.packed.sha256)
        document_id = prospect.document_ids[index]
        row = DocumentRow(
            health_id=health_id,
            document_id=document_id,
            logical_id=document_id,
            version=1,
            status=place.status,
            type_code=document.type_code.code,
            submitted_at=submitted_at,
            submission_set_id=set_id,
            masked=place.masked,
            invisible_patient=place.invisible_patient,
            invisible_representatives=place.invisible_representatives,
            author_digests=list(self._authorship.of_authors(document.authors)),
            stored_size=len(prepared.packed.frame),
            sealed=b"",
            entry_id=document_id,
            changed_at=moment.now,
            change=SUBMIT,
            status_before=0,
            replaced_by=place.replaced_by,
            relations=[*{str(kind) for kind, _ in place.related}, *(f"{kind}:{to}" for kind, to in place.related)],
            folder_ids=folder_ids,
            institution_digests=list(self._authorship.of_institutions(document.authors)),
        )
        sealed = envelope.seal_metadata(key, row, ContentPointer(content_id, prepared.packed.sha256), document)
        return self._searched(row._replace(sealed=sealed), document, content_id), shown(document, row)

    def _searched(self, row: DocumentRow, document: document_pb2.Document, content_id: uuid.UUID) -> NewDocument:
        """The row with the columns that are searched by."""
        stop = document.service_stop_time if document.HasField("service_stop_time") else None
        return NewDocument(
            row=row,
            class_code=document.class_code.code,
            format_code=document.format_code.code,
            created_at=instant(document.create_time),
            service_start=instant(document.service_start_time),
            service_stop=None if stop is None else instant(stop),
            unique_id_digest=self._unique_ids.digest(document.unique_id),
            content_id=content_id,
            facility_code=document.facility_type.code,
            setting_code=document.practice_setting.code,
            confidentiality=[code.code for code in document.confidentiality if code.system != codes.VISIBILITY],
            event_codes=list(dict.fromkeys(code.code for code in document.event_codes)),
            reference_digests=[self._unique_ids.of_reference(r.system, r.value) for r in document.reference_ids],
            title_digests=titles.digests_of(self._unique_ids.title_key(row.health_id), document.title),
            set_digest=self._unique_ids.of_cda_set(document.set_id) if document.set_version else None,
            set_version=document.set_version or None,
            author_name_digests=self._names(row.health_id, document.authors),
        )

    def _complete_set(
        self, submission_set: document_pb2.SubmissionSet, prospect: Prospect, set_id: uuid.UUID, submitted_at: datetime
    ) -> None:
        """What the record says of a set, and what follows when the producer said nothing: who hands in, and for the act
        that led to it the sector in which its document was made (PDSm: designationType is of TRE_R02-SecteurActivite
        among others; ITI-105 has no other word for it). What is taken over stays as it was there."""
        submission_set.name = submission_set_name(prospect.call.health_id, set_id)
        submission_set.submit_time.CopyFrom(timestamp(submitted_at))
        submission_set.status = document_pb2.DOCUMENT_STATUS_APPROVED
        if not submission_set.HasField("author"):
            submission_set.author.CopyFrom(author_of(prospect.call.actor))
        if not (submission_set.HasField("content_type") or prospect.call.actor.takes_over_host):
            submission_set.content_type.CopyFrom(prospect.prepared[0].document.facility_type)

    def _set(
        self,
        key: DossierKey,
        set_id: uuid.UUID,
        digest: bytes,
        submission_set: document_pb2.SubmissionSet,
        submitted_at: datetime,
    ) -> NewSet:
        return NewSet(
            set_id,
            digest,
            submission_set.status,
            submitted_at,
            envelope.seal_submission_set(key, set_id, submission_set),
            submission_set.source_id,
            submission_set.content_type.code,
            list(self._authorship.of_authors([submission_set.author])),
            list(self._authorship.of_institutions([submission_set.author])),
            self._names(key.health_id, [submission_set.author]),
        )

    def _names(self, health_id: int, authors: Iterable[coding_pb2.Author]) -> list[int]:
        return author_names.digests_of(self._unique_ids.author_name_key(health_id), authors)


def _submitted_at(prospect: Prospect, moment: Moment) -> datetime:
    """By this clock; what is taken over from another host (domain §6) came when it came there, for the month after
    which an announcement becomes visible, and what is new since a last visit, are counted from then."""
    given = prospect.request.submission_set
    if not (prospect.call.actor.takes_over_host and given.HasField("submit_time") and is_valid(given.submit_time)):
        return moment.now
    return min(instant(given.submit_time), moment.now)


def _content(key: DossierKey, content_id: uuid.UUID, prepared: Prepared) -> NewContent:
    sealed = envelope.seal_content(key, content_id, prepared.packed)
    return NewContent(content_id, sealed, None, len(sealed))


def _replaced(key: DossierKey, row: DocumentRow, moment: Moment, by: uuid.UUID) -> Revision:
    # Succession lets approved documents be replaced, and those whose replacement went away with another dossier.
    state = changed(state_of(row), REPLACE) or state_of(row)
    return revision(key, row, state, REPLACE, moment.now, replaced_by=by)


def _events(
    prospect: Prospect, answer: document_pb2.SubmitDocumentsResponse, revisions: Sequence[Revision]
) -> list[audit_pb2.AuditEvent]:
    """Of the dossier, by its own names; and of each other dossier in which something was replaced, by that one's."""
    call = prospect.call
    made = [answer.submission_set.name, *(document.name for document in answer.documents)]
    own = build_event(
        call,
        outcome=audit_pb2.OUTCOME_SUCCESS,
        objects=[*made, *(document_name(call.health_id, r.row.document_id) for r in revisions)],
        epoch=prospect.epoch,
        changes=_replacements(call.health_id, revisions),
        basis=prospect.basis,
    )
    others: dict[int, list[Revision]] = {}
    for one in revisions:
        if one.row.health_id != call.health_id:
            others.setdefault(one.row.health_id, []).append(one)
    return [
        own,
        *(
            build_event(
                call,
                outcome=audit_pb2.OUTCOME_SUCCESS,
                health_id=health_id,
                objects=[document_name(health_id, r.row.document_id) for r in replaced],
                changes=_replacements(health_id, replaced),
                basis=prospect.basis,
            )
            for health_id, replaced in others.items()
        ),
    ]


def _replacements(health_id: int, revisions: Sequence[Revision]) -> list[audit_pb2.AttributeChange]:
    return [
        audit_pb2.AttributeChange(
            attribute="replaced",
            before=document_name(health_id, r.row.document_id),
            after=document_name(health_id, by),
        )
        for r in revisions
        if (by := r.row.replaced_by) is not None
    ]
