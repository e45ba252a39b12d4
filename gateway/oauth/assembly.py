"""How the parts of OAuth are put together, and the file that names the OpenID providers. No endpoint, no rule."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from gateway.clients import Clients
from gateway.events import Refusals
from gateway.oauth.assertion import Assertions
from gateway.oauth.client_authentication import ClientAuthentication
from gateway.oauth.provider import Provider, ProviderSettings
from gateway.oauth.routes import OAuthForms, Refused, SignInPages
from gateway.oauth.sign_in import SignIn
from gateway.oauth.standing_tokens import StandingTokens
from gateway.oauth.tokens import Issuance, Tokens
from gateway.quotas import Quotas
from gateway.registration import RealmName
from gateway.settings import GatewaySettings
from gateway.store import SignIns, Store
from services.runtime.server import Service, StartRefused
from services.runtime.tokens import TokenIssuer


@dataclass(frozen=True, slots=True)
class OAuth:
    """The endpoints of both ports, and the providers behind them."""

    forms: OAuthForms
    pages: SignInPages
    providers: Mapping[str, Provider]

    async def close(self) -> None:
        """Close the connections to the providers."""
        for provider in self.providers.values():
            await provider.close()


def assemble(
    service: Service[GatewaySettings],
    clients: Clients,
    quotas: Quotas,
    refused: Refused,
    changed: Callable[[], Awaitable[object]],
) -> OAuth:
    """OAuth as the settings describe it; StartRefused naming what is wrong with them."""
    settings, pool = service.settings, service.pool
    base_url = settings.public_url.rstrip("/")
    store, sign_ins = Store(pool), SignIns(pool)
    audiences = {base_url, *(f"{base_url}/{form}" for form in ("token", "introspect", "revoke"))}
    refusals = Refusals(service.trail)
    authentication = ClientAuthentication(Assertions(clients, store, frozenset(audiences)), clients, quotas, refusals)
    issuer = TokenIssuer(settings.token_key_file, None, settings.token_issuer, settings.jwks_file)
    issuance = Issuance(issuer, settings.token_audience, settings.token_seconds, settings.sign_in_seconds)
    tokens = Tokens(authentication, pool, sign_ins, issuance, refusals, changed, _now)
    standing = StandingTokens(
        authentication,
        clients,
        service.token_verifier(),
        pool,
        sign_ins,
        changed,
        issuer=settings.token_issuer,
        audience=settings.token_audience,
    )
    providers: dict[str, Provider] = {
        realm: Provider(each) for realm, each in read_providers(settings.openid_file).items()
    }
    sign_in = SignIn(clients, sign_ins, providers, base_url, _now)
    return OAuth(OAuthForms(tokens, standing, refused), SignInPages(sign_in, refused), providers)


def read_providers(file: Path | None) -> dict[RealmName, ProviderSettings]:
    """The providers by who signs in there; StartRefused naming what is wrong with the file."""
    if file is None:
        return {}
    try:
        return TypeAdapter(dict[RealmName, ProviderSettings]).validate_python(json.loads(file.read_bytes()))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        detail = "; ".join(f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in problems)
        raise StartRefused(f"DMP_OPENID_FILE: {detail}") from error
    except ValueError as error:
        raise StartRefused("DMP_OPENID_FILE: not JSON") from error


def _now() -> datetime:
    return datetime.now(UTC)
