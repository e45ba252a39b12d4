"""What is taken for the network address of a caller, and what is not."""

from __future__ import annotations

import pytest

from services.runtime.addresses import peer_address, read_address


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:41234", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:41234", "2001:db8::1"),
        ("ipv6:[2001:db8::1]:41234", "2001:db8::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:41234", "fe80::1"),
        ("unix:/run/dmp.sock", ""),
        ("unix:", ""),
        ("", ""),
    ],
)
def test_the_other_end_of_a_connection(peer: str, address: str) -> None:
    assert peer_address(peer) == address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("192.0.2.1, 198.51.100.7", ""),
        ("DUPONT 1790351", ""),
        ("1" * 65, ""),
        ("", ""),
    ],
)
def test_what_is_no_address_is_kept_nowhere(text: str, address: str) -> None:
    assert read_address(text) == address
