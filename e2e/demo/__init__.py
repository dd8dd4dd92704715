"""The demonstration: a real job on a real cluster loses its first node, shrinks, grows and learns to read digits."""
