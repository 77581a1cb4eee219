"""Command line: one thin module per command, and the parts they share.

- `main`: the console script, which registers the commands; `console`: output, errors, settings.
- `up`, `migrate`, `worker`, `api`, `load`, `rebuild`, `status`, `catalog`, `dlq`: the commands.
- `status_report`, `status_document`: gathering of the `status` report, and its JSON document.
- `dlq_output`: what the `dlq` commands print.
- `embedded/`: the servers and child processes of `up`; `traffic/`: the events of `load`.
"""
