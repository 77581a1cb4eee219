"""Programs of the peers in Python. Each runs in an environment of its own (`requirements/`).

They import nothing of the project but `bench.peers.cells` and each other.

- `reports`: arguments, and the reports to the bench
- `consuming`: the event and the consumer
- `postgres_upsert`: one PostgreSQL statement per batch
- `chdb_tables`: ClickHouse in the process
- `bytewax_flow`, `pathway_flow`: dataflows
- `stock_agent`: Faust agent that takes one event after another
"""
