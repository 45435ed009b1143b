"""Sensors: they look, go away, and look again; none holds a worker while it waits."""
