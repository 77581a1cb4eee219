"""Command line: one thin module per command, and the parts they share.

- `main`: the console script, which registers the commands; `console`: output, errors, settings.
- `up`, `migrate`, `worker`, `api`, `load`, `rebuild`, `status`, `catalog`, `dlq`: the commands.
- `status_report`, `status_document`: how `status` gathers its report, and the report's shape.
- `embedded/`: the servers and child processes of `up`; `traffic/`: the events of `load`.
"""
