"""The pair track's updates as C code for one CPU thread, compiled on the machine that runs it."""
