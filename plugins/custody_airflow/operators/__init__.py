"""Operators: one module per subsystem, and what they share."""
