"""What tokens promise: only the gateway's, only for us, only now; and said once, a token is cheap to believe again."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, Key, OctKey, OKPKey

from dmp.common.v1 import access_pb2, context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from services.runtime.errors import DmpError
from services.runtime.settings import SettingsError
from services.runtime.tokens import KeySetError, TokenIssuer, TokenVerifier, VerifiedToken

NOW = 1_790_000_000.0
ISSUER, AUDIENCE = "https://dmp.test", "dmp-test"
INVALID = reasons.ERROR_REASON_TOKEN_INVALID
EXPIRED = reasons.ERROR_REASON_TOKEN_EXPIRED
ACTOR = ActingContext(
    actor_kind=context_pb2.ACTOR_KIND_PROFESSIONAL,
    subject="899700218896",
    profession="10",
    client_id="clinic-software",
    caller=access_pb2.CALLER_KIND_PARTNER,
)


class Platform:
    """A gateway's key, the key set file, and a verifier that reads it."""

    def __init__(self, directory: Path, remember: int = 100) -> None:
        self.directory = directory
        self.jwks = directory / "jwks.json"
        self.key = OKPKey.generate_key("Ed25519", {"use": "sig", "kid": "one"})
        self.publish(self.key)
        self.outcomes: list[str] = []
        self.verifier = TokenVerifier(self.jwks, AUDIENCE, ISSUER, remember=remember, outcome=self.outcomes.append)
        self.issuer = self.issuer_of(self.key)

    def publish(self, *keys: Key) -> None:
        text = json.dumps({"keys": [key.as_dict(private=False) for key in keys]})
        partial = self.directory / "partial"
        partial.write_text(text)
        partial.replace(self.jwks)

    def issuer_of(self, key: OKPKey) -> TokenIssuer:
        file = self.directory / "key.jwk"
        file.write_text(json.dumps(key.as_dict(private=True)))
        return TokenIssuer(file, None, ISSUER)

    def token(self, *scopes: str, now: float = NOW, lifetime: int = 300) -> str:
        return self.issuer.issue(ACTOR, AUDIENCE, lifetime, scopes=scopes or ("ITI-67",), now=now)

    def forged(self, key: Key | None = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token of the gateway's with another key, header or claims; a claim of None is left out."""
        body: dict[str, Any] = json.loads(decoded(self.token().split(".")[1])) | claims
        chosen = {"alg": "EdDSA", "typ": "at+jwt", "kid": "one"} | (header or {})
        signer = key or self.key
        registry = jws.JWSRegistry(algorithms=["HS256", "ES256", "Ed25519", "EdDSA"])
        registry.get_alg = lambda name: registry.algorithms[name]  # type: ignore[method-assign]
        kept = {name: value for name, value in body.items() if value is not None}
        return jws.serialize_compact(chosen, json.dumps(kept), signer, registry=registry)

    def believed(self, token: str, now: float = NOW) -> None:
        assert self.verifier.verify(token, now).claims == ACTOR

    def refusal(self, token: str, now: float = NOW) -> int:
        with pytest.raises(DmpError) as refused:
            self.verifier.verify(token, now)
        return refused.value.reason


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path)


def test_a_token_says_who_acts_for_which_client_in_which_scopes(platform: Platform) -> None:
    token = platform.issuer.issue(ACTOR, AUDIENCE, 60, scopes=["ITI-67", "ITI-68"], now=NOW, jti="j1")
    assert platform.verifier.verify(token, NOW) == VerifiedToken(
        claims=ACTOR,
        expires_at=NOW + 60,
        client_id="clinic-software",
        scopes=frozenset({"ITI-67", "ITI-68"}),
        caller=access_pb2.CALLER_KIND_PARTNER,
        jti="j1",
    )


def test_a_valid_token_is_verified_once_and_remembered_until_it_expires(platform: Platform) -> None:
    token = platform.token()
    first = platform.verifier.verify(token, NOW)
    assert platform.verifier.verify(token, NOW + 304.9) is first
    assert platform.refusal(token, NOW + 305) == EXPIRED
    assert platform.refusal(token, NOW + 305) == EXPIRED
    assert platform.outcomes == ["ok", "remembered", "refused", "refused"]


@pytest.mark.parametrize(
    ("now", "reason"),
    [(NOW - 5.1, EXPIRED), (NOW - 5, None), (NOW + 64.9, None), (NOW + 65, EXPIRED), (NOW + 86400, EXPIRED)],
)
def test_a_token_holds_from_its_beginning_to_its_end_give_or_take_five_seconds(
    platform: Platform, now: float, reason: int | None
) -> None:
    token = platform.token(lifetime=60)
    if reason is None:
        platform.believed(token, now)
    else:
        assert platform.refusal(token, now) == reason


def test_a_token_for_another_audience_is_refused_and_one_for_several_is_not(platform: Platform) -> None:
    assert platform.refusal(platform.forged(aud="dmp-production")) == reasons.ERROR_REASON_TOKEN_AUDIENCE
    assert platform.refusal(platform.forged(aud=["a", "b"])) == reasons.ERROR_REASON_TOKEN_AUDIENCE
    assert platform.refusal(platform.forged(aud=None)) == reasons.ERROR_REASON_TOKEN_AUDIENCE
    platform.believed(platform.forged(aud=["other", AUDIENCE]), NOW)


def test_no_token_at_all_is_missing_and_not_invalid(platform: Platform) -> None:
    assert platform.refusal("") == reasons.ERROR_REASON_TOKEN_MISSING


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.test"}, {"iss": None}, {"exp": None}, {"exp": "never"}, {"exp": True},
        {"exp": NOW + 301}, {"exp": 1e300}, {"exp": float("nan")}, {"exp": float("inf")}, {"exp": -1},
        {"iat": None}, {"nbf": None}, {"nbf": "now"}, {"iat": NOW - 100}, {"exp": NOW},
        {"jti": None}, {"jti": ""}, {"jti": 7}, {"scope": None}, {"scope": ["ITI-67"]},
        {"dmp": None}, {"dmp": 7}, {"dmp": "%%%"}, {"dmp": "AAAA"}, {"dmp": ""},
    ],
)  # fmt: skip
def test_a_signed_token_with_a_wrong_claim_is_invalid(platform: Platform, claims: dict[str, Any]) -> None:
    assert platform.refusal(platform.forged(**claims)) == INVALID


@pytest.mark.parametrize("field", ["actor_kind", "subject", "client_id", "caller"])
def test_a_token_that_does_not_say_who_acts_is_neither_issued_nor_believed(platform: Platform, field: str) -> None:
    anonymous = ActingContext()
    anonymous.CopyFrom(ACTOR)
    anonymous.ClearField(field)  # type: ignore[arg-type]
    assert platform.refusal(platform.forged(dmp=encoded(anonymous.SerializeToString()))) == INVALID
    with pytest.raises(ValueError, match="names the actor"):
        platform.issuer.issue(anonymous, AUDIENCE, 60)


def test_no_other_algorithm_is_believed_whatever_the_header_says(platform: Platform) -> None:
    head, body, signature = platform.token().split(".")
    for algorithm in ("none", "None", "HS256", "Ed25519", "RS256", ""):
        other = encoded(json.dumps({**json.loads(decoded(head)), "alg": algorithm}).encode())
        assert platform.refusal(f"{other}.{body}.{signature}") == INVALID
        assert platform.refusal(f"{other}.{body}.") == INVALID


def test_a_public_key_is_no_shared_secret(platform: Platform) -> None:
    """Algorithm confusion: an HMAC made with what everybody may read."""
    secret = OctKey.import_key(decoded(platform.key.as_dict(private=False)["x"]))  # type: ignore[arg-type]
    assert platform.refusal(platform.forged(secret, {"alg": "HS256"})) == INVALID
    assert platform.refusal(platform.forged(ECKey.generate_key("P-256"), {"alg": "ES256"})) == INVALID


def test_a_token_of_another_key_or_without_a_known_kid_is_invalid(platform: Platform) -> None:
    stranger = OKPKey.generate_key("Ed25519", {"kid": "one"})
    assert platform.refusal(platform.forged(stranger)) == INVALID
    assert platform.refusal(platform.forged(header={"kid": "two"})) == INVALID
    _, body, signature = platform.token().split(".")
    without = encoded(json.dumps({"alg": "EdDSA", "typ": "at+jwt"}).encode())
    assert platform.refusal(f"{without}.{body}.{signature}") == INVALID
    assert platform.refusal(platform.forged(header={"typ": "JWT"})) == INVALID, "a client assertion is no token"


@given(st.data())
def test_a_token_altered_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    platform = Platform(tmp_path_factory.mktemp("altered"))
    token = platform.token()
    place = data.draw(st.integers(min_value=0, max_value=len(token) - 2))
    letter = data.draw(st.sampled_from("ABCxyz019-_."))
    altered = token[:place] + letter + token[place + 1 :]
    if altered != token:
        assert platform.refusal(altered) == INVALID


@given(
    st.one_of(st.text(min_size=1, max_size=200), st.binary(max_size=90).map(lambda b: f"{encoded(b)}.{encoded(b)}.x"))
)
def test_rubbish_is_invalid_and_breaks_nothing(tmp_path_factory: pytest.TempPathFactory, rubbish: str) -> None:
    assert Platform(tmp_path_factory.mktemp("rubbish")).refusal(rubbish) == INVALID


@pytest.mark.parametrize(
    "token", ["a" * 9000, "..", "e30.e30.e30", encoded(b"[" * 4000) + ".e30.e30", "\ud800", encoded(b"[]") + ".e30.e30"]
)
def test_hand_made_rubbish_is_invalid(platform: Platform, token: str) -> None:
    assert platform.refusal(token) == INVALID


def test_a_new_key_is_believed_within_a_second_and_the_old_one_while_it_is_published(platform: Platform) -> None:
    old = platform.token()
    platform.verifier.verify(old, NOW)
    second = OKPKey.generate_key("Ed25519", {"kid": "two"})
    platform.publish(second, platform.key)
    new = platform.issuer_of(second).issue(ACTOR, AUDIENCE, 60, now=NOW)
    assert platform.refusal(new, NOW + 0.5) == INVALID, "the file is looked at once a second"
    platform.believed(new, NOW + 1.1)
    platform.believed(old, NOW + 1.1)
    assert platform.outcomes[-1] == "remembered", "tokens of a key that stays are not verified again"


def test_a_removed_key_takes_its_remembered_tokens_with_it(platform: Platform) -> None:
    token = platform.token()
    platform.verifier.verify(token, NOW)
    platform.publish(OKPKey.generate_key("Ed25519", {"kid": "two"}))
    assert platform.refusal(token, NOW + 1.1) == INVALID


def test_a_replaced_key_of_the_same_name_takes_its_remembered_tokens_with_it(platform: Platform) -> None:
    token = platform.token()
    platform.verifier.verify(token, NOW)
    platform.publish(OKPKey.generate_key("Ed25519", {"kid": "one"}))
    assert platform.refusal(token, NOW + 1.1) == INVALID


def test_a_key_set_that_becomes_unreadable_leaves_the_last_good_one(platform: Platform) -> None:
    token = platform.token()
    platform.jwks.write_text("{")
    platform.believed(token, NOW + 2)
    platform.jwks.unlink()
    platform.believed(token, NOW + 4)
    platform.publish(OKPKey.generate_key("Ed25519", {"kid": "two"}))
    assert platform.refusal(token, NOW + 6) == INVALID


def test_remembered_tokens_are_bounded(tmp_path: Path) -> None:
    platform = Platform(tmp_path, remember=2)
    first, second, third = (platform.token() for _ in range(3))
    for token in (first, second, third, third, first):
        platform.verifier.verify(token, NOW)
    assert platform.outcomes == ["ok", "ok", "ok", "remembered", "ok"]


def test_no_token_is_issued_for_more_than_five_minutes(platform: Platform) -> None:
    for lifetime in (0, 301, -1):
        with pytest.raises(ValueError, match="1 to 300"):
            platform.issuer.issue(ACTOR, AUDIENCE, lifetime)


def test_a_key_may_come_as_pem_with_its_kid_beside_it(platform: Platform, tmp_path: Path) -> None:
    private = Ed25519PrivateKey.generate()
    file = tmp_path / "key.pem"
    file.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    platform.publish(OKPKey.import_key(private, {"kid": "pem"}))
    token = TokenIssuer(file, "pem", ISSUER).issue(ACTOR, AUDIENCE, 60, now=NOW)
    platform.believed(token, NOW + 2)
    with pytest.raises(KeySetError, match="no kid"):
        TokenIssuer(file, None, ISSUER)


def test_key_files_that_cannot_be_used_are_refused_at_the_start(platform: Platform, tmp_path: Path) -> None:
    private, ec = platform.key.as_dict(private=True), ECKey.generate_key("P-256", {"kid": "ec"})
    file = tmp_path / "wrong.json"
    for content, message in (
        ("{", "not a JWK set"),
        (json.dumps({"keys": []}), "at least one key"),
        (json.dumps({"keys": [private]}), "private key"),
        (json.dumps({"keys": [ec.as_dict(private=False)]}), "Ed25519"),
        (json.dumps({"keys": [platform.key.as_dict(private=False)] * 2}), "one kid"),
        (json.dumps({"keys": [{"kty": "oct", "k": encoded(os.urandom(32)), "kid": "x"}]}), "not a JWK set"),
    ):
        file.write_text(content)
        with pytest.raises(KeySetError, match=message) as failed:
            TokenVerifier(file, AUDIENCE, ISSUER)
        assert isinstance(failed.value, SettingsError)
    with pytest.raises(KeySetError, match="cannot be read"):
        TokenVerifier(tmp_path / "absent", AUDIENCE, ISSUER)
    file.write_text(json.dumps(platform.key.as_dict(private=False)))
    with pytest.raises(KeySetError, match="not a private"):
        TokenIssuer(file, None, ISSUER)
