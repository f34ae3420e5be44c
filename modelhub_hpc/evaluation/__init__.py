"""Runs against a reference, and against each other: what the paper's case studies measure."""
