"""What keeps a job or the operator from working: pure functions of the objects that `commands/doctor.py` reads."""
