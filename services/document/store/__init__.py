"""Every statement of this service on its own tables, and the rows that they give and take.

Here live SQL and rows: what is read by id (`reading`), found by criteria (`searching`), written (`writing`), and kept
as bytes (`contents`). Sealing is `envelope`; who may know of what is `access` (the statements that search apply the
same `View`); the tables that services share belong to the runtime. Each statement of a request names the dossier first
and goes through an index that starts with it.
"""
