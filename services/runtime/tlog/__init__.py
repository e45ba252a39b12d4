"""Transparency logs in the public formats of C2SP: what a log, its witness and its verifiers share. Pure.

tree.py        RFC 6962 hashing, inclusion and consistency proofs
layout.py      tiles: their paths, which there are, and how a tree grows by them (c2sp.org/tlog-tiles)
note.py        signed notes, keys and cosignatures (c2sp.org/signed-note, c2sp.org/tlog-cosignature)
checkpoint.py  checkpoints (c2sp.org/tlog-checkpoint)
policy.py      which logs and witnesses are trusted, and how many must agree (c2sp.org/tlog-policy)
receipt.py     proofs that are checked without the log (c2sp.org/tlog-proof)
"""
