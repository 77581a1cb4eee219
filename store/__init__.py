"""Data model and stores: counters (Redis), history and catalog (PostgreSQL).

- `windows`: calendar days, periods and windows. `records`: events, catalogs, questions, pages.
- `offsets`: ranges of offsets that a store lacks.
- `counters`: the contract of a counter store. `redis`: its implementation, in Lua scripts.
- `postgres`: raw history, catalog, migrations.
- `catalog_document`: the JSON document of a catalog. `catalog`: the cache of loaded catalogs.
- `summary`: from counts and catalog to the rows of a response.
- `settings`, `metrics`, `logs`, `clock`, `cancellation`: shared by all commands.
- `tracing`: the export of traces, imported only if they are enabled.

Data flow: `streams` writes a commit batch to `redis`, then its events to `postgres`; `api` reads a
page from `redis`, or from `postgres` if the counters cannot answer, and turns it into rows with
`summary`. This package imports neither `streams` nor `api`; both import it.
"""
