"""Every statement of the identity service, and nothing else: a module for each part of the register.

Identifiers and traits are digests here, people sealed. Batches are one statement whatever their size; each statement
of the request path goes through an index that begins with its distribution key.
"""
