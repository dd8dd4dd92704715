"""Random faults and scalings of one elastic job, and the rules that must always hold."""
