"""Runs: specified, stored, found again."""
