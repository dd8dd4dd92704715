"""Random faults, and the rules that must hold afterwards."""
