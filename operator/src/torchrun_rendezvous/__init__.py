"""The program of a job's rendezvous pod: torchrun's c10d store, the driver of its rounds, and their HTTP interface.

It runs inside the job's image, as one zipapp, with the standard library and torch >= 2.6 on Python >= 3.10. Only
`protocol` is shared: the operator imports it to read and write the same documents.

Decisions are pure (`view`, `memory`, `liveness`, `rounds`, `pace`): they get the state in the store, the target and
the time, and return what to write, remember and log. `driver`, `board`, `http` and `sockets` do the I/O.
"""
