"""Raw history and catalog in PostgreSQL.

- `pool`: connections, transactions, conversion of errors; `open_pool`.
- `migrate` and `migrations/`: the schema, and the month partitions of history.
- `history`: writer and reader of raw history. `copyrows` and `arrays` encode what it sends.
  `group_history`: reads of one group, and of counts per day. `rows`: what reads share.
- `gaps`: offsets that history lacks because retention deleted them.
- `replay`: all rows of a tenant, for a rebuild. `redriven`: dead letters that were redriven.
- `catalog`: load, import and export of catalogs.
- `sql/`: the statements, one file each.

Order of a write: `history` compares and sets the watermark, registers identities (`arrays`), and
copies the rows of the new ones (`copyrows`), in one transaction.
"""
