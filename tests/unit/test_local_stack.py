"""The local stack without its databases: state, ports, certificates, keys and settings."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import socket
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError
from joserfc.jwk import ECKey, KeySet, OKPKey

from gateway.settings import GatewaySettings
from ops.local import keys
from ops.local.environment import Surroundings, endpoints, process_environment
from ops.local.pki import CertificateAuthority, Identity
from ops.local.state import POSTGRES, REDIS, SERVICES, Endpoint, ServiceName, State, StateError, is_free, write_whole
from services.audit.settings import AuditSettings
from services.identity.settings import IdentitySettings
from services.runtime.keyring import Keyring
from services.runtime.settings import ServiceSettings, load
from services.runtime.tokens import TokenIssuer

ONE_OF_EACH: Mapping[ServiceName, int] = dict.fromkeys(SERVICES, 1)


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State.open(tmp_path / "state")


# --- state ---


def test_a_state_opened_again_is_the_same(state: State) -> None:
    assert State.open(state.root) == state
    assert state.password("anyone") == State.open(state.root).password("anyone")


def test_a_state_is_found_by_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMP_STATE", str(tmp_path / "here"))
    assert State.open().root == (tmp_path / "here").resolve()


def test_a_state_of_another_user_is_refused(tmp_path: Path) -> None:
    theirs, owner = tmp_path, 65534
    if os.geteuid() == 0:
        os.chown(theirs, owner, owner)
    else:
        theirs, owner = Path("/usr"), 0
    with pytest.raises(StateError, match=f"belongs to user {owner}"):
        State.open(theirs)


def test_a_second_stack_on_a_state_is_told_who_holds_it(state: State) -> None:
    with state.locked(), pytest.raises(StateError, match=f"in use by process {os.getpid()}"), state.locked():
        pytest.fail("both hold the state")
    with state.locked():
        assert state.holder() == str(os.getpid())
    assert state.holder() is None


def test_ports_stay_while_they_are_free_and_change_when_taken(state: State) -> None:
    wanted = [POSTGRES, REDIS, *endpoints(ONE_OF_EACH, SERVICES)]
    first = state.ports(wanted, chance=random.Random(1))
    assert len(set(first.numbers.values())) == len(wanted)
    assert state.ports(wanted) == first == state.recorded_ports()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", first[REDIS]))
        holder.listen()
        assert not is_free(first[REDIS])
        second = state.ports(wanted)
    assert {endpoint for endpoint in wanted if first[endpoint] != second[endpoint]} == {REDIS}


def test_a_preferred_port_is_taken_when_free(state: State) -> None:
    http = Endpoint("gateway", channel="http")
    free = state.ports([http], chance=random.Random(2))[http]
    (state.root / "ports.json").unlink()
    assert state.ports([http], preferred={http: free})[http] == free


def test_a_file_is_replaced_whole_with_the_mode_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    for content in ("first", "second"):
        write_whole(path, content, mode=0o600)
        assert path.read_text() == content
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


# --- certificates and keys ---


def verified_names(identity: Identity, authority: Path) -> list[x509.GeneralName]:
    """The subject names of a client certificate, after its chain has been checked by another implementation."""
    store = verification.Store(x509.load_pem_x509_certificates(authority.read_bytes()))
    leaf = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
    verified = verification.PolicyBuilder().store(store).build_client_verifier().verify(leaf, [])
    assert verified.subjects is not None
    return verified.subjects


def test_every_certificate_chains_to_the_authority_and_names_its_holder(state: State) -> None:
    authority = CertificateAuthority(state)
    holders = {
        "spiffe://dmp.local/service/document": authority.service("document"),
        "spiffe://dmp.local/internal/bulk-loader": authority.internal("bulk-loader"),
        "spiffe://dmp.local/operator/camille": authority.operator("camille"),
    }
    for expected, identity in holders.items():
        assert identity.spiffe_id == expected
        assert x509.UniformResourceIdentifier(expected) in verified_names(identity, identity.authority)


def test_a_service_certificate_serves_localhost(state: State) -> None:
    identity = CertificateAuthority(state).service("audit")
    store = verification.Store(x509.load_pem_x509_certificates(identity.authority.read_bytes()))
    leaf = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
    verification.PolicyBuilder().store(store).build_server_verifier(x509.DNSName("localhost")).verify(leaf, [])


def test_an_operator_certificate_does_not_serve(state: State) -> None:
    identity = CertificateAuthority(state).operator("camille")
    leaf = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
    purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert ExtendedKeyUsageOID.SERVER_AUTH not in purposes


def test_another_authority_does_not_vouch_for_ours(state: State, tmp_path: Path) -> None:
    other = CertificateAuthority(State.open(tmp_path / "other"))
    with pytest.raises(verification.VerificationError):
        verified_names(CertificateAuthority(state).service("audit"), other.certificate_path)


def test_certificates_are_kept_until_they_are_about_to_expire(state: State) -> None:
    authority = CertificateAuthority(state)
    first = authority.service("consent").certificate.read_bytes()
    assert CertificateAuthority(state).service("consent").certificate.read_bytes() == first
    authority.renew("service", "consent", now=datetime.now(UTC) - timedelta(days=340))
    ageing = authority.service("consent").certificate.read_bytes()
    leaf = x509.load_pem_x509_certificate(ageing)
    assert leaf.not_valid_after_utc - datetime.now(UTC) > timedelta(days=300)


def test_a_renewed_certificate_has_a_new_key_and_the_same_name(state: State) -> None:
    authority = CertificateAuthority(state)
    before = authority.service("consent").key.read_bytes()
    renewed = authority.renew("service", "consent")
    assert renewed.key.read_bytes() != before
    assert x509.UniformResourceIdentifier(renewed.spiffe_id) in verified_names(renewed, renewed.authority)


def test_a_name_cannot_leave_its_directory(state: State) -> None:
    with pytest.raises(ValueError, match="not a name"):
        CertificateAuthority(state).operator("../service/audit")


def test_private_files_are_for_their_owner_alone(state: State) -> None:
    authority = CertificateAuthority(state)
    private = [
        authority.service("audit").key,
        authority.certificate_path.with_name("ca.key"),
        keys.ensure_token_keys(state).signing_key,
        keys.ensure_client_key(state, "demo-software").private_key,
        *keys.ensure_keyring(state, "audit").iterdir(),
    ]
    state.password("dmp_audit")
    private.append(state.secret("dmp_audit.password"))
    assert {path: path.stat().st_mode & 0o777 for path in private} == dict.fromkeys(private, 0o600)


def test_a_token_signed_by_the_gateway_verifies_with_the_key_set_through_a_rotation(state: State) -> None:
    def verifies(token: str) -> bool:
        known = KeySet.import_key_set(json.loads(first.key_set.read_bytes()))
        try:
            jwt.decode(token, known, algorithms=["Ed25519"])
        except InvalidKeyIdError:
            return False
        return True

    first = keys.ensure_token_keys(state)
    assert keys.ensure_token_keys(state) == first
    signing = OKPKey.import_key(json.loads(first.signing_key.read_bytes()))
    assert signing.thumbprint() == first.kid == TokenIssuer(first.signing_key, None, "https://dmp.local").kid
    token = jwt.encode({"alg": "Ed25519", "kid": first.kid}, {"sub": "1"}, signing, algorithms=["Ed25519"])
    assert verifies(token)
    second = keys.rotate_token_key(state)
    assert second.kid != first.kid
    assert verifies(token)
    keys.retire_token_key(state, first.kid)
    assert not verifies(token)
    with pytest.raises(ValueError, match="rotate first"):
        keys.retire_token_key(state, second.kid)


def test_the_published_key_sets_hold_no_private_part(state: State) -> None:
    for key_set in (keys.ensure_token_keys(state).key_set, keys.ensure_client_key(state, "demo-software").key_set):
        assert '"d"' not in key_set.read_text()


def test_a_partner_keeps_its_key(state: State) -> None:
    first = keys.ensure_client_key(state, "demo-software")
    assert keys.ensure_client_key(state, "demo-software") == first
    key = ECKey.import_key(json.loads(first.private_key.read_bytes()))
    assert isinstance(key.private_key, ec.EllipticCurvePrivateKey)


def test_each_service_has_its_own_keyring(state: State) -> None:
    directories = [keys.ensure_keyring(state, service) for service in SERVICES]
    assert [Keyring.from_directory(keys.ensure_keyring(state, s)).current for s in SERVICES] == [1] * len(SERVICES)
    assert len({(directory / "1.key").read_bytes() for directory in directories}) == len(SERVICES)


# --- settings ---


def surroundings(state: State, replicas: Mapping[ServiceName, int]) -> Surroundings:
    ports = state.ports(endpoints(replicas, SERVICES))
    for service in SERVICES:
        keys.ensure_keyring(state, service)
        write_whole(state.secret(f"dmp_{service}.dsn"), "postgresql://", mode=0o600)
    write_whole(state.secret("redis.url"), "redis://", mode=0o600)
    return Surroundings(state, ports, replicas, keys.ensure_token_keys(state))


def test_the_settings_of_every_service_are_accepted_by_it(state: State) -> None:
    around = surroundings(state, ONE_OF_EACH)
    authority = CertificateAuthority(state)
    for service in SERVICES:
        given = around.settings(service, 0, authority.service(service)).variables()
        own: dict[str, type[ServiceSettings]] = {
            "gateway": GatewaySettings,
            "audit": AuditSettings,
            "identity": IdentitySettings,
        }
        known = own.get(service, ServiceSettings)
        assert load(known, given).listen == around.ports.address(Endpoint(service))


def test_only_the_gateway_is_given_the_signing_key_and_an_http_address(state: State) -> None:
    around = surroundings(state, ONE_OF_EACH)
    authority = CertificateAuthority(state)
    settings = {service: around.settings(service, 0, authority.service(service)) for service in SERVICES}
    assert [service for service in SERVICES if settings[service].token_key_file] == ["gateway"]
    assert [service for service in SERVICES if settings[service].http_listen] == ["gateway"]


def test_the_address_of_a_replicated_service_names_all_its_replicas(state: State) -> None:
    around = surroundings(state, {**ONE_OF_EACH, "document": 2})
    first, second = (around.ports.address(Endpoint("document", number)) for number in (0, 1))
    assert around.target("document") == f"ipv4:{first},{second}"
    assert around.target("consent") == around.ports.address(Endpoint("consent"))


def test_on_native_the_services_call_each_other_past_the_terminators(state: State) -> None:
    around = dataclasses.replace(surroundings(state, {**ONE_OF_EACH, "document": 2}), transport="native")
    authority = CertificateAuthority(state)
    settings = {service: around.settings(service, 0, authority.service(service)) for service in SERVICES}
    assert {service for service in SERVICES if settings[service].peer_listen is None} == {"gateway"}
    second = around.settings("document", 1, authority.service("document")).peer_listen
    for each in settings.values():
        assert each.consent_address == settings["consent"].peer_listen
        assert each.document_address == f"ipv4:{settings['document'].peer_listen},{second}"
    assert around.target("consent") != settings["consent"].peer_listen, "clients go through them"


def test_a_service_is_not_told_our_own_settings(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMP_STATE", "elsewhere")
    settings = surroundings(state, ONE_OF_EACH).settings("audit", 0, CertificateAuthority(state).service("audit"))
    given = process_environment(settings, {"DMP_LOG_LEVEL": "debug"})
    assert "DMP_STATE" not in given
    assert given["DMP_LOG_LEVEL"] == "debug"
    assert given["PATH"] == os.environ["PATH"]
