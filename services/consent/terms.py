"""What the rules leave to the operator: how long things last, and which host this is. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class ConsentTerms:
    """`retention_years` of a closed dossier's archive, `destruction_after` a request for it; `minority_years` at most
    a parent represents a child; authorisations last `authorization_validity`, or `visit_validity` for one visit."""

    authorization_validity: timedelta
    home_host: str
    region: str = ""
    visit_validity: timedelta = timedelta(hours=24)
    retention_years: int = 10
    destruction_after: timedelta = timedelta(days=30)
    minority_years: int = 18

    def end_of_archive(self, closed_at: datetime) -> datetime:
        """When a dossier closed at this instant is destroyed (domain §3: ten years)."""
        return years_after(closed_at, self.retention_years)


def years_after(at: datetime, years: int) -> datetime:
    """The same day so many years later; the 29th of February becomes the 1st of March."""
    try:
        return at.replace(year=at.year + years)
    except ValueError:
        return at.replace(year=at.year + years, month=3, day=1)
