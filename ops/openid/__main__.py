"""`python -m ops.openid`: the local OpenID provider of the state directory, until it is told to stop."""

from __future__ import annotations

import asyncio

from ops.local.state import State
from ops.openid.server import serve

if __name__ == "__main__":
    asyncio.run(serve(State.open()))
