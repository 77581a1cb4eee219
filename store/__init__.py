"""What is kept: windows, counters (Redis), history and catalog (Postgres).

This package imports neither `streams` nor `api`; they both build on it.
"""
