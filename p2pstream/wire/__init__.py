"""Bytes to typed messages and back, and nothing else. Knows no domain."""
