"""The client of the jobs' rendezvous hosts."""
