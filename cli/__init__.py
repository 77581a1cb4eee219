"""Command line: one thin module per command, and the parts they share.

- `main`: the console script, which registers the commands; `console`: output, errors, settings.
- `up`, `migrate`, `worker`, `api`, `load`, `rebuild`, `status`, `catalog`, `dlq`: the commands.
- `status_report`, `status_tenants`: gathering of the `status` report into the JSON document of
  `status_document`; `status_problems`: what of it needs attention; `status_output`, `status_words`:
  what people see of it.
- `dlq_output`: what the `dlq` commands print.
- `embedded/`: the servers and child processes of `up`; `traffic/`: the events of `load`.
"""
