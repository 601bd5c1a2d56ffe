"""Checks at rest: what can be said of a saga without running it."""
