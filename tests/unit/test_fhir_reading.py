"""The typed reader, times, identifiers and code systems of the FHIR front."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from dmp.document.v1.document_pb2 import TimeRange
from gateway.fhir import codesystems, identifiers, negotiation, parameters, times
from gateway.fhir.json_body import check_resource, parse_json
from gateway.fhir.node import Node
from services.identity.nir import INS_OIDS, NirError, parse_nir
from services.runtime.errors import DmpError


def node(value: object) -> Node:
    return Node("X", value)


def rule_of(error: pytest.ExceptionInfo[DmpError]) -> tuple[str, str]:
    (field,) = error.value.fields
    return field.field, field.rule


class TestNode:
    @pytest.mark.parametrize(
        ("value", "rule"),
        [(1, "type"), (True, "type"), ([], "type"), ("", "empty"), ("ab\x01", "characters"), ("x" * 11, "max_length")],
    )
    def test_a_string_is_checked(self, value: object, rule: str) -> None:
        with pytest.raises(DmpError) as error:
            node({"s": value}).text(10, "s")
        assert rule_of(error) == ("X.s", rule)

    @pytest.mark.parametrize("value", [True, 1.0, "1", [1], {"a": 1}])
    def test_an_integer_is_an_integer(self, value: object) -> None:
        with pytest.raises(DmpError) as error:
            node({"size": value}).integer("size", 0, 10)
        assert rule_of(error) == ("X.size", "type")

    def test_absent_elements_read_as_empty(self) -> None:
        empty = node({})
        assert empty.text(5, "a") == ""
        assert empty.integer("a", 0, 1) is None
        assert empty.base64("a") is None
        assert empty.child("a").child("b").array(3) == []
        assert empty.boolean("a") is False

    def test_arrays_have_no_nulls_and_a_bound(self) -> None:
        with pytest.raises(DmpError) as error:
            node({"a": ["x", None]}).child("a").array(5)
        assert rule_of(error) == ("X.a[1]", "type")
        with pytest.raises(DmpError) as error:
            node({"a": [1, 2, 3]}).child("a").array(2)
        assert rule_of(error) == ("X.a", "max_items")

    @pytest.mark.parametrize(("text", "bytes_"), [("SGVsbG8=", b"Hello"), ("SGVs\r\nbG8=", b"Hello")])
    def test_base64_may_be_wrapped(self, text: str, bytes_: bytes) -> None:
        assert node({"data": text}).base64("data") == bytes_

    @pytest.mark.parametrize("text", ["SGVsbG8", "SGVsb!8=", "====", "é", 5])
    def test_what_is_not_base64_is_refused(self, text: object) -> None:
        with pytest.raises(DmpError) as error:
            node({"data": text}).base64("data")
        assert rule_of(error)[0] == "X.data"


class TestJson:
    def test_a_literal_backslash_is_no_nul(self) -> None:
        assert check_resource(parse_json(b'{"resourceType":"X","a":"\\\\u0000"}'), "X").text(20, "a") == "\\u0000"

    @given(st.binary(max_size=200))
    def test_bytes_raise_nothing_else_than_our_errors(self, body: bytes) -> None:
        with pytest.raises(DmpError):
            check_resource(parse_json(body), "X")


class TestTimes:
    @pytest.mark.parametrize(
        ("text", "utc"),
        [
            ("2026", "2025-12-31T23:00:00+00:00"),
            ("2026-07", "2026-06-30T22:00:00+00:00"),
            ("2026-06-12", "2026-06-11T22:00:00+00:00"),
            ("2026-06-12T10:00:00+02:00", "2026-06-12T08:00:00+00:00"),
            ("2026-06-12T10:00:00.123456Z", "2026-06-12T10:00:00.123456+00:00"),
            ("2026-06-12T10:00:00", "2026-06-12T08:00:00+00:00"),
        ],
    )
    def test_a_date_begins_in_paris_unless_it_has_a_zone(self, text: str, utc: str) -> None:
        moment = times.timestamp(node(text))
        assert moment is not None
        assert moment.ToDatetime(tzinfo=UTC) == datetime.fromisoformat(utc)

    @pytest.mark.parametrize(
        "text", ["2026-02-30", "0000", "26", "2026-13", "2026-06-12T25:00:00Z", "x", "2026-06-12T10:00:60Z", "２０２６"]
    )
    def test_what_is_no_date_is_refused(self, text: str) -> None:
        with pytest.raises(DmpError):
            times.timestamp(node(text))

    @given(st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1)))  # noqa: DTZ001
    def test_what_is_written_reads_back(self, moment: datetime) -> None:
        stamp = Timestamp()
        stamp.FromDatetime(moment.replace(microsecond=moment.microsecond // 1000 * 1000))
        assert times.timestamp(node(times.write(stamp))) == stamp

    @pytest.mark.parametrize(
        ("text", "start", "end"),
        [
            ("2026-06-12", "2026-06-11T22:00:00", "2026-06-12T22:00:00"),
            ("ge2026-06-12", "2026-06-11T22:00:00", None),
            ("gt2026-06-12", "2026-06-12T22:00:00", None),
            ("sa2026", "2026-12-31T23:00:00", None),
            ("le2026-06", None, "2026-06-30T22:00:00"),
            ("lt2026-06", None, "2026-05-31T22:00:00"),
            ("eb2026-12", None, "2026-11-30T23:00:00"),
            ("eq2026-06-12T10:00Z", "2026-06-12T10:00:00", "2026-06-12T10:01:00"),
            ("eq2026-06-12T10:00:00.5Z", "2026-06-12T10:00:00.5", "2026-06-12T10:00:00.6"),
        ],
    )
    def test_prefixes_bound_by_the_precision_given(self, text: str, start: str | None, end: str | None) -> None:
        range_ = TimeRange()
        times.narrow(range_, text, "date")
        bounds = [
            getattr(range_, name).ToDatetime() if range_.HasField(name) else None for name in ("start_time", "end_time")
        ]
        assert bounds == [datetime.fromisoformat(text) if text else None for text in (start, end)]

    def test_several_values_must_all_hold(self) -> None:
        range_ = TimeRange()
        for text in ("ge2024", "ge2025", "lt2027", "lt2026-02"):
            times.narrow(range_, text, "date")
        assert range_.start_time.ToDatetime() == datetime(2024, 12, 31, 23)  # noqa: DTZ001
        assert range_.end_time.ToDatetime() == datetime(2026, 1, 31, 23)  # noqa: DTZ001

    @given(st.text(max_size=30))
    def test_any_text_is_a_range_or_our_error(self, text: str) -> None:
        with contextlib.suppress(DmpError):
            times.narrow(TimeRange(), text, "date")


class TestIdentifiers:
    @pytest.mark.parametrize(
        "unique_id",
        [
            "1.2.250.1.999.1",
            "1.2.3^ABC-1",
            "8b8d2a3e-5b5e-4f5c-9b0a-0d8a6a1f0c11",
            "8B8D2A3E-5B5E-4F5C-9B0A-0D8A6A1F0C11^7",
        ],
    )
    def test_a_unique_id_survives_the_way_through_fhir(self, unique_id: str) -> None:
        assert identifiers.read_unique_id(node(identifiers.write_unique_id(unique_id))) == unique_id

    @pytest.mark.parametrize(
        ("system", "value"),
        [
            ("urn:ietf:rfc:3986", "1.2.3"),
            ("urn:ietf:rfc:3986", "urn:oid:1.02"),
            ("http://example.org", "1"),
            ("urn:oid:1.2.3", "a^b"),
        ],
    )
    def test_other_forms_are_refused(self, system: str, value: str) -> None:
        with pytest.raises(DmpError):
            identifiers.read_unique_id(node({"system": system, "value": value}))

    def test_kinds_are_told_by_use_or_by_type(self) -> None:
        written = identifiers.typed_identifier("uniqueId", {"system": "urn:ietf:rfc:3986", "value": "urn:oid:1.2"})
        assert identifiers.is_kind(node(written), "uniqueId")
        assert not identifiers.is_kind(node(written), "entryUUID")
        assert identifiers.is_kind(node({"use": "official"}), "entryUUID")
        assert identifiers.is_kind(node({"type": written["type"]}), "uniqueId")

    @given(st.from_regex(r"[12][0-9]{4}([0-9][0-9]|2A|2B)[0-9]{8}", fullmatch=True))
    def test_the_key_of_an_ins_is_that_of_the_identity_service(self, text: str) -> None:
        try:
            identifiers.check_ins(text, "f")
        except DmpError:
            with pytest.raises(NirError):
                parse_nir(text)

    @given(st.from_regex(r"[12][0-9]{2}(0[1-9]|1[0-2])([0-9][0-9]|2A|2B)[0-9]{6}", fullmatch=True))
    def test_every_ins_that_identity_takes_passes_here(self, number: str) -> None:
        digits = number[:5] + {"2A": "19", "2B": "18"}.get(number[5:7], number[5:7]) + number[7:]
        ins = f"{number}{97 - int(digits) % 97:02d}"
        assert str(parse_nir(ins)) == ins
        identifiers.check_ins(ins, "f")

    def test_the_domains_are_those_of_the_identity_service(self) -> None:
        assert identifiers.INS_DOMAINS == INS_OIDS

    @given(st.text(max_size=80))
    def test_any_reference_is_a_link_or_our_error(self, text: str) -> None:
        for reference in (text, f"Patient?{text}", f"Patient?identifier={text}"):
            with contextlib.suppress(DmpError):
                identifiers.patient_reference(reference, "subject", "https://dmp.test")


class TestCodeSystems:
    def test_every_url_has_one_oid_and_comes_back(self) -> None:
        urls = [url for known in codesystems.URLS.values() for url in known]
        assert len(urls) == len(set(urls))
        for oid, known in codesystems.URLS.items():
            assert codesystems.to_uri(oid) == known[0]
            assert {codesystems.to_oid(url) for url in known} == {oid}

    def test_other_oids_are_urns_and_other_urls_are_nothing(self) -> None:
        assert codesystems.to_uri("1.2.3") == "urn:oid:1.2.3"
        assert codesystems.to_oid("urn:oid:1.2.3") == codesystems.to_oid("1.2.3") == "1.2.3"
        assert codesystems.to_oid("http://example.org/codes") is None


class TestParameters:
    @given(st.binary(max_size=60))
    def test_any_query_is_pairs_or_our_error(self, raw: bytes) -> None:
        try:
            pairs = parameters.parse_query(raw, "query")
        except DmpError:
            return
        assert all(isinstance(part, str) for pair in pairs for part in pair)

    @given(st.lists(st.tuples(st.text(min_size=1, max_size=8), st.text(min_size=1, max_size=12)), max_size=6))
    def test_a_query_that_we_write_reads_back(self, pairs: list[tuple[str, str]]) -> None:
        assert parameters.parse_query(parameters.encode(pairs).encode(), "query") == pairs


@given(st.text(max_size=60))
def test_any_accept_header_is_understood_or_refused(text: str) -> None:
    from starlette.datastructures import Headers

    headers = Headers(raw=[(b"accept", text.encode()), (b"content-type", text.encode()), (b"prefer", text.encode())])
    for check in (
        lambda: negotiation.answer_format(headers, []),
        lambda: negotiation.check_binary_accepted(headers, "text/xml"),
        lambda: negotiation.check_content_type(headers),
        lambda: negotiation.preference(headers, "return"),
    ):
        try:
            check()
        except DmpError:
            continue
