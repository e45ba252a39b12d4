"""What makes one series, or one examination, of what several dossiers of one person say.

Digests are bound to their dossier, so that no copy of the tables tells who has the same (`clinical_envelope`). Between
linked dossiers they are therefore compared by what they are of: the projections that the caller may know of are opened,
and what says the same goes by the digest that it has in the dossier asked for. Nearly nobody has a second dossier:
everything here costs nothing then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dmp.document.v1 import clinical_values_pb2 as values
from services.document.clinical import Asked, Listings
from services.document.clinical_envelope import Digests
from services.document.clinical_sources import translated
from services.document.clinical_store import Same
from services.document.reading.imaging import links_of
from services.document.reading.model import Kind
from services.document.reading.results import series_of

ALONE: Final = Same([], [])


class Joins:
    """Joins what lies in linked dossiers."""

    def __init__(self, listings: Listings, digests: Digests) -> None:
        self._listings = listings
        self._digests = digests

    async def series(self, asked: Asked) -> Same:
        """Of the results' series."""
        if len(asked.dossiers) == 1:
            return ALONE
        with translated():
            rows = await self._listings.store.one_of_each_series(asked.dossiers, asked.view, int(Kind.RESULT))
        pairs: dict[bytes, bytes] = {}
        for item in await self._listings.items(asked, rows):
            if isinstance(item.message, values.Result):
                ours = self._digests.series(asked.call.health_id, series_of(item.message))
                pairs[item.row.series_digest] = ours
        return _same(pairs.items())

    async def images(self, asked: Asked) -> Same:
        """Of what joins reports and references."""
        if len(asked.dossiers) == 1:
            return ALONE
        kinds = int(Kind.IMAGING_REPORT), int(Kind.IMAGING_REFERENCE)
        with translated():
            rows = await self._listings.store.images(asked.dossiers, asked.view, kinds)
        pairs: dict[bytes, bytes] = {}
        for item in await self._listings.items(asked, rows):
            if isinstance(item.message, values.ImagingReport | values.ImagingReference):
                texts = links_of(item.message, item.reference_ids)
                theirs = self._digests.links(item.row.health_id, texts)
                pairs.update(zip(theirs, self._digests.links(asked.call.health_id, texts), strict=True))
        return _same(pairs.items())


def _same(pairs: Iterable[tuple[bytes, bytes]]) -> Same:
    different = [(theirs, ours) for theirs, ours in pairs if theirs != ours]
    return Same([theirs for theirs, _ in different], [ours for _, ours in different])
