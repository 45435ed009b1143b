"""The trigger forms: one module per subsystem."""
