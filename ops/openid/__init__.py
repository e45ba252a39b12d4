"""A local OpenID provider for development and tests, which behaves like Pro Santé Connect. Never for production.

people      who can sign in: the demo's professionals with their UserInfo, and any health id
provider    the endpoints (OpenID Connect Core 1.0, code flow), as an ASGI application
server      the process: `python -m ops.openid`, also `dmp openid`
files       its keys, its client's secret, and the gateway's description of it
"""
