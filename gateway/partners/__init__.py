"""Registered software, as its operators keep it: `mapping` between contract and registration, `service` the RPCs."""
