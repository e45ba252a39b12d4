"""Consent (PCF ITI-108) and the operations of a dossier: TD0.3, 0.4, 1.1, 1.2, 1.3, 1.4, 1.6."""

from __future__ import annotations

from typing import Any, Final

from dmp.consent.v1 import consent_pb2 as consent
from dmp.document.v1 import document_pb2 as document
from gateway.fhir import consents
from gateway.fhir.interaction import Interaction, search_by_get_and_post
from gateway.fhir.parameters import SearchParameter
from gateway.fhir.rpcs import CONSENT, DOCUMENT, Rpc

OPEN: Final = Rpc(f"{CONSENT}/OpenDossier", consent.OpenDossierRequest, consent.OpenDossierResponse)
REOPEN: Final = Rpc(f"{CONSENT}/ReopenDossier", consent.ReopenDossierRequest, consent.ReopenDossierResponse)
CLOSE: Final = Rpc(f"{CONSENT}/CloseDossier", consent.CloseDossierRequest, consent.CloseDossierResponse)
GRANT: Final = Rpc(
    f"{CONSENT}/GrantAuthorization", consent.GrantAuthorizationRequest, consent.GrantAuthorizationResponse
)
REVOKE: Final = Rpc(
    f"{CONSENT}/RevokeAuthorization", consent.RevokeAuthorizationRequest, consent.RevokeAuthorizationResponse
)
BLOCK: Final = Rpc(f"{CONSENT}/BlockProfessional", consent.BlockProfessionalRequest, consent.BlockProfessionalResponse)
UNBLOCK: Final = Rpc(
    f"{CONSENT}/UnblockProfessional", consent.UnblockProfessionalRequest, consent.UnblockProfessionalResponse
)
PREFERENCES: Final = Rpc(
    f"{CONSENT}/UpdatePreferences", consent.UpdatePreferencesRequest, consent.UpdatePreferencesResponse
)
REMOVE_ATTENDING: Final = Rpc(
    f"{CONSENT}/RemoveAttendingPhysician",
    consent.RemoveAttendingPhysicianRequest,
    consent.RemoveAttendingPhysicianResponse,
)
LIST: Final = Rpc(
    f"{CONSENT}/ListAuthorizations", consent.ListAuthorizationsRequest, consent.ListAuthorizationsResponse
)
ACCESSIBLE: Final = Rpc(f"{CONSENT}/ListAccessible", consent.ListAccessibleRequest, consent.ListAccessibleResponse)
RECENT: Final = Rpc(
    f"{DOCUMENT}/ListRecentDossiers", document.ListRecentDossiersRequest, document.ListRecentDossiersResponse
)
EVENTS: Final = Rpc(f"{CONSENT}/ListConsentEvents", consent.ListConsentEventsRequest, consent.ListConsentEventsResponse)


def _operation(name: str, transaction: str, rpc: Rpc[Any, Any], documentation: str) -> Interaction:
    """An operation on a dossier, whose patient is a parameter: the body is Parameters."""
    return Interaction(
        name, "POST", f"/Patient/${name}", "Patient", "operation", transaction, rpc, documentation,
        body="resource", accepts=("Parameters",),
    )  # fmt: skip


ACCESSIBLE_PARAMETERS: Final = (
    SearchParameter(
        "order", "token", "authorization (by default) or document: newest authorisation, or document, first"
    ),
    SearchParameter("since", "date", "leaves out dossiers whose last authorisation, or last document, came before"),
    SearchParameter("_count", "number", "how many at most"),
)

TABLE: Final = (
    _operation(
        "dossier-open", "TD1.1", OPEN,
        "TD1.1: open the dossier of parameter patient; consentMethod, consentDate, consentGivenBy; breakGlassOpposed,"
        " regulationOpposed, maskedShownInEmergency.",
    ),
    _operation("dossier-reopen", "TD1.2", REOPEN, "TD1.2: open a closed dossier again, on a new consent."),
    _operation("dossier-close", "TD1.4", CLOSE, "TD1.4: close the dossier; reason PATIENT_REQUEST, DEATH or ERROR."),
    _operation(
        "dossier-authorise", "TD0.3", GRANT,
        "TD0.3: declare one's own authorisation, or as the patient another's (grantee); attendingPhysician,"
        " patientConsented, careTeam, visit.",
    ),
    _operation("dossier-revoke", "TD0.3", REVOKE, "TD0.3: end one's own authorisation, or that of grantee."),
    _operation("dossier-stop-attending", "TD0.3", REMOVE_ATTENDING, "TD0.3: stop being MT and keep the access."),
    _operation("dossier-block", "TD0.3", BLOCK, "TD0.3: shut grantee out, whatever the mode."),
    _operation("dossier-unblock", "TD0.3", UNBLOCK, "TD0.3: lift the block of grantee; it gives no authorisation."),
    _operation(
        "dossier-preferences", "TD1.3", PREFERENCES,
        "TD1.3: breakGlassOpposed, regulationOpposed, maskedShownInEmergency; patientConsented.",
    ),
    Interaction(
        "dossier-accessible", "GET", "/Patient/$dossier-accessible", "Patient", "operation", "TD0.4", ACCESSIBLE,
        "TD0.4: the dossiers that the caller may enter, newest authorisation first; or, of those with a document that"
        " the caller may know of, newest document first (order=document).",
        ACCESSIBLE_PARAMETERS, also=(("TD0.4", RECENT),),
    ),
    *search_by_get_and_post(
        "consent-search", "Consent", "TD1.6", LIST,
        "TD1.6, ITI-108: who is authorised and who is blocked, and what the patient decided about emergencies.",
        consents.PARAMETERS,
    ),
    Interaction("consent-read", "GET", "/Consent/{id}", "Consent", "read", "TD1.6", LIST, "One Consent."),
    Interaction(
        "consent-history", "GET", "/Consent/{id}/_history", "Consent", "history-instance", "ITI-81", EVENTS,
        "What became of one Consent, newest first.",
    ),
    Interaction(
        "consent-vread", "GET", "/Consent/{id}/_history/{vid}", "Consent", "vread", "ITI-81", EVENTS,
        "One version of a Consent; the version is the dossier's epoch.",
    ),
    Interaction(
        "consent-create", "POST", "/Consent", "Consent", "create", "TD0.3", GRANT,
        "TD0.3, ITI-108: authorise (permit, actor), block (deny, actor), or decide about emergencies (purpose).",
        body="resource", accepts=("Consent",), also=(("TD1.3", PREFERENCES),),
    ),
    Interaction(
        "consent-update", "PUT", "/Consent/{id}", "Consent", "update", "TD0.3", REVOKE,
        "TD0.3, ITI-108: status inactive revokes, unblocks or withdraws; active grants, blocks or opposes again.",
        body="resource", accepts=("Consent",), also=(("TD1.3", PREFERENCES),),
    ),
)  # fmt: skip
