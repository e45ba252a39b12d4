"""The page that shows the FHIR front to a developer: plain HTML made from the OpenAPI description. Pure.

It loads nothing from anywhere and runs no script, so it works behind any proxy and any content policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Final

from gateway.fhir.node import JsonObject

_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: 14px/1.45 ui-monospace, monospace; }
pre { padding: .75rem; overflow-x: auto; border: 1px solid color-mix(in srgb, currentColor 25%, transparent); }
h3 { margin: 2rem 0 .25rem; } h3 b { display: inline-block; min-width: 4.2rem; }
table { border-collapse: collapse; width: 100%; } th { font-weight: 600; }
td, th { text-align: left; vertical-align: top; padding: .2rem .75rem .2rem 0; }
td { border-top: 1px solid color-mix(in srgb, currentColor 15%, transparent); }
nav li { display: inline; margin-right: 1rem; } nav ul { padding: 0; }
"""


def page(description: JsonObject) -> str:
    """The page of an OpenAPI description."""
    info, server = description["info"], description["servers"][0]["url"]
    by_tag: dict[str, list[str]] = {}
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            by_tag.setdefault(operation["tags"][0], []).append("".join(_operation(path, method, operation)))
    tags = "".join(f'<li><a href="#{escape(tag)}">{escape(tag)}</a></li>' for tag in by_tag)
    sections = "".join(f'<h2 id="{escape(tag)}">{escape(tag)}</h2>{"".join(each)}' for tag, each in by_tag.items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(info["title"])}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(info['title'])}</h1>"
        f"<p>{escape(info['description'])} Base: <code>{escape(server)}</code>. The same for machines: "
        f'<a href="openapi.json">openapi.json</a>, <a href="metadata">CapabilityStatement</a>.</p>'
        f"<p>A token comes from the token endpoint (IHE IUA, ITI-71) and is sent as "
        f"<code>Authorization: Bearer …</code>; it lives at most five minutes.</p>"
        f"<nav><ul>{tags}</ul></nav>{sections}</body></html>"
    )


def _operation(path: str, method: str, operation: JsonObject) -> Iterator[str]:
    yield f'<h3 id="{escape(operation["operationId"])}"><b>{method.upper()}</b> <code>{escape(path)}</code></h3>'
    yield f"<p>{escape(operation.get('description') or operation['summary'])}</p>"
    bodies = operation.get("requestBody", {}).get("content", {})
    if bodies:
        yield f"<p>Body: {', '.join(f'<code>{escape(kind)}</code>' for kind in bodies)}</p>"
    named = [each for each in operation["parameters"] if each["in"] != "header" and each["name"] != "_format"]
    if named:
        yield "<table><thead><tr><th>parameter</th><th>in</th><th></th></tr></thead><tbody>"
        for each in named:
            yield (
                f"<tr><td><code>{escape(each['name'])}</code></td><td>{each['in']}</td>"
                f"<td>{escape(each.get('description', ''))}</td></tr>"
            )
        yield "</tbody></table>"
