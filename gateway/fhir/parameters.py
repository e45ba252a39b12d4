"""Search parameters as sent: names, values, modifiers, `_format` and the like. Pure; no parameter of one resource.

Unknown parameters are ignored and left out of the `self` link (R4 search); with `Prefer: handling=strict` they are
refused, and with `handling=lenient` the answer names them. Refused always is what would change the meaning of an answer
unseen: a modifier on a parameter that we know, and what R4 defines for every search and is not offered here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, quote

from gateway.fhir.refusals import invalid, malformed

LONGEST_VALUE: Final = 2048
MOST_PARAMETERS: Final = 64
_CONTROL: Final = frozenset({"_format", "_pretty", "_total"})
_TOTALS: Final = frozenset({"none", "estimate", "accurate"})
_NOT_OFFERED: Final = frozenset(
    {"_include", "_revinclude", "_has", "_filter", "_text", "_content", "_list", "_query", "_contained"}
    | {"_containedType"}
)
_NAME: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_.:$-]{0,63}")


@dataclass(frozen=True, slots=True)
class SearchParameter:
    """A parameter as the CapabilityStatement and the OpenAPI description show it."""

    name: str
    type: str
    documentation: str


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a search that we know, in their order."""

    pairs: Sequence[tuple[str, str]]
    ignored: Sequence[str] = ()
    """The names of those that we do not know."""

    def values(self, name: str) -> list[str]:
        """Every value of a parameter."""
        return [value for key, value in self.pairs if key == name]

    def single(self, name: str) -> str:
        """The one value of a parameter; '' when absent."""
        values = self.values(name)
        if len(values) > 1:
            raise invalid(name, "repeated", "this parameter is given once")
        return values[0] if values else ""

    def alternatives(self, name: str) -> list[str]:
        """The values of a parameter given once, comma-separated: any of them."""
        text = self.single(name)
        parts = text.split(",") if text else []
        if any(not part for part in parts):
            raise invalid(name, "empty", "no empty value between commas")
        return parts


def parse_query(raw: bytes, field: str) -> list[tuple[str, str]]:
    """The pairs of a query string or a form; MALFORMED_REQUEST for what is not one."""
    try:
        text = raw.decode()
        pairs = parse_qsl(
            text, keep_blank_values=True, strict_parsing=bool(text), errors="strict", max_num_fields=MOST_PARAMETERS
        )
    except UnicodeDecodeError:
        raise malformed(field, "utf8", "parameters are percent-encoded UTF-8") from None
    except ValueError:
        raise malformed(field, "form", f"at most {MOST_PARAMETERS} parameters, each name=value") from None
    return pairs


def known(pairs: Sequence[tuple[str, str]], names: Set[str], *, strict: bool = False) -> Parameters:
    """The parameters that are among `names`; the others are dropped, or refused when `strict`."""
    kept: list[tuple[str, str]] = []
    ignored: dict[str, None] = {}
    for name, value in pairs:
        base, colon, _ = name.partition(":")
        if base in names and colon and name not in names:
            raise invalid(base, "modifier", "modifiers of this parameter are not offered")
        if name in names:
            _check(name, value)
            kept.append((name, value))
        elif base in _NOT_OFFERED:
            raise invalid(
                base, "not_supported", "this parameter is not offered here, and what it asks for would be missed"
            )
        elif name == "_total" and value not in _TOTALS:
            raise invalid("_total", "code", f"one of {', '.join(sorted(_TOTALS))}")
        elif name not in _CONTROL:
            shown = name if _NAME.fullmatch(name) else "query"
            if strict:
                raise invalid(shown, "unknown", "this parameter is not known here, and handling=strict was asked for")
            ignored[shown] = None
    return Parameters(kept, tuple(ignored))


def encode(pairs: Sequence[tuple[str, str]]) -> str:
    """A query string; the characters that FHIR uses in values stay readable."""
    return "&".join(f"{quote(name, safe=':')}={quote(value, safe=':/,.')}" for name, value in pairs)


def _check(name: str, value: str) -> None:
    if not value:
        raise invalid(name, "empty", "a parameter has a value")
    if len(value) > LONGEST_VALUE:
        raise invalid(name, "max_length", f"at most {LONGEST_VALUE} characters")
    if not value.isprintable():
        raise invalid(name, "characters", "no control characters")
