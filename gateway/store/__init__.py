"""Every statement of the gateway's database. No rule, no HTTP, no clock.

clients   registrations, their keys, suspensions, used assertions
exports   which exports of hosts are under way
imports   how far imports are
sign_ins  people signing in, authorization codes, grants with their refresh tokens, revoked tokens
usage     counts of what clients did
"""

from __future__ import annotations

from gateway.store.clients import ClientRow, Standing, Store
from gateway.store.exports import Exports
from gateway.store.imports import Imports
from gateway.store.sign_ins import CodeRow, GrantRow, SignInRow, SignIns
from gateway.store.usage import UsageRow, UsageStore

__all__ = [
    "ClientRow",
    "CodeRow",
    "Exports",
    "GrantRow",
    "Imports",
    "SignInRow",
    "SignIns",
    "Standing",
    "Store",
    "UsageRow",
    "UsageStore",
]
