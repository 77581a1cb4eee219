"""Benchmarks that measure limits on one machine. They are no part of the test run.

Each starts its own servers, prints its result as text or JSON, and has `--help`.

- `ingest`: events per second of the worker
- `freshness`: time from Kafka's acknowledgement to the API's answer, under a load (`paced`)
- `commit`: duration and cost of the commit script
- `roll`: the daily roll beside commits
- `memory`: bytes of Redis per customer, per group and per identity
- `cost`: how cost grows with customers, events and tenants, with a picture
- `tenants`: rate, start and idle cost with 10 to 10,000 tenants
- `reads`: answers of the API, warm and cold, beside a bare route (`reads_app`), while a worker
  counts; `reads_writer` writes the counters, `http_load` sends the requests
- `connections`: memory of the API while clients open connections and leave
- `mixed_load`: valid and hostile clients of the API while stores go away
- `peers`: the project beside other systems, on one log (`make bench`)
- `servers`: servers and child processes that the benchmarks share
"""
