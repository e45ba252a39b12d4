"""Writes docs/reference/settings.md and errors.md from the code: `python -m ops.reference`."""

from __future__ import annotations

from pathlib import Path

from dmp.common.v1 import error_reason_pb2
from gateway.settings import GatewaySettings
from services.audit.settings import AuditSettings
from services.consent.settings import ConsentSettings
from services.document.settings import DocumentSettings
from services.identity.settings import IdentitySettings
from services.runtime.reasons import REASONS
from services.runtime.settings import PREFIX, ServiceSettings

_DOCS = Path(__file__).resolve().parents[1] / "docs" / "reference"
_WORKLOADS: tuple[tuple[str, type[ServiceSettings]], ...] = (
    ("identity", IdentitySettings),
    ("consent", ConsentSettings),
    ("document", DocumentSettings),
    ("audit", AuditSettings),
    ("gateway", GatewaySettings),
)
_SETTINGS_HEAD = """# Settings

Every workload is told by its environment alone. A wrong, missing or unknown `DMP_` variable ends it at once with exit
code 2 and a line for each. Secrets are files. Made from the code by `python -m ops.reference`.
"""
_ERRORS_HEAD = """# Errors

What each reason is in each protocol; `protos/dmp/common/v1/error_reason.proto` explains each with an example. Made from
the code by `python -m ops.reference`.

| reason | gRPC | HTTP | FHIR issue | XDS | message |
|---|---|---|---|---|---|
"""


def settings_page() -> str:
    """The page on settings."""
    sections = [_SETTINGS_HEAD, _section("All workloads", ServiceSettings, frozenset())]
    common = frozenset(ServiceSettings.model_fields)
    sections += [_section(name, settings, common) for name, settings in _WORKLOADS]
    return "\n".join(section for section in sections if section)


def errors_page() -> str:
    """The page on errors."""
    rows = []
    for number, spec in sorted(REASONS.items()):
        name = error_reason_pb2.ErrorReason.Name(number).removeprefix("ERROR_REASON_")  # type: ignore[arg-type]
        rows.append(f"| {name} | {spec.code.name} | {spec.http} | {spec.issue} | {spec.xds or ''} | {spec.message} |")
    return _ERRORS_HEAD + "\n".join(rows) + "\n"


def _section(title: str, settings: type[ServiceSettings], left_out: frozenset[str]) -> str:
    rows = []
    for name, field in settings.model_fields.items():
        inherited = ServiceSettings.model_fields.get(name)
        if name in left_out and inherited is not None and inherited.is_required() == field.is_required():
            continue
        default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
        about = " ".join((field.description or "").split())
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {about} |")
    if not rows:
        return ""
    return f"## {title}\n\n| variable | default | |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def _shown(default: object) -> str:
    if default is None or default == frozenset():
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def main() -> None:
    """Write the pages."""
    for name, page in (("settings.md", settings_page()), ("errors.md", errors_page())):
        (_DOCS / name).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
