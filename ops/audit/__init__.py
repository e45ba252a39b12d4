"""Verifying the audit logs from outside: receipts, whole logs, and watching them grow. No store is opened here."""
