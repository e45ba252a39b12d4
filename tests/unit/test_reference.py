"""The reference pages say what the code does."""

from __future__ import annotations

from pathlib import Path

from ops.reference import errors_page, settings_page

_DOCS = Path(__file__).resolve().parents[2] / "docs" / "reference"


def test_the_settings_page_is_the_settings_of_the_code() -> None:
    assert (_DOCS / "settings.md").read_text("utf-8") == settings_page()


def test_the_errors_page_is_the_table_of_reasons() -> None:
    assert (_DOCS / "errors.md").read_text("utf-8") == errors_page()
