"""Random faults and scalings of one elastic job, and what must hold whatever happens."""
