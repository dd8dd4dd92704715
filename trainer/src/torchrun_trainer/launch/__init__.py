"""How a process starts: its rank, the checks of its launch, its start-up time, its error file, the barrier."""
