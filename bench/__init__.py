"""Benchmarks that measure limits on one machine. They are no part of the test run.

Each starts its own servers, prints its result as text or JSON, and has `--help`.

- `ingest`: events per second of the worker and of a stock Faust agent (`stock_agent`)
- `freshness`: time from Kafka's acknowledgement to the API's answer, under a load (`paced`)
- `commit`: duration and cost of the commit script
- `roll`: the daily roll beside commits
- `memory`: bytes of Redis per customer, per group and per identity
- `servers`: servers and child processes that the benchmarks share
"""
