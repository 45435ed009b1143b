"""The tar stream of a tape file: made, parsed, hashed, written and read, in one pass each."""
