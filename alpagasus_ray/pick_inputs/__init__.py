"""How `pick` reads a run by shard: what arms are chosen by, vectors, test sets, near repeats. Knows nothing of jobs."""
