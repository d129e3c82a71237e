"""Decides what things cost and what is allowed. Pure: standard library only; no clock, randomness, logging or I/O.

Instants are integer milliseconds since the Unix epoch, UTC (``*_ms``); money is integer micro-units (``*_micros``).
"""
