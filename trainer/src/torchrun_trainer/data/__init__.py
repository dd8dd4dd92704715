"""Which samples belong to which step, and how a script goes through them."""
