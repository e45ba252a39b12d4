"""The witness: a process of its own that cosigns a log's checkpoints only as long as the log grows consistently."""
