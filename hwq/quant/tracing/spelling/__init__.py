"""Many ways to write an operation -> one. `respell` rewrites a traced network."""
