"""Counters in Redis or Valkey.

- `client`: connections, conversion of errors, calls of Lua scripts.
- `keys`: the names of all keys. `lua/`: the scripts; `lua/layout.lua` describes the records.
- `generations`: create, build, swap, roll back and drop a tenant's generation; its watermarks.
- `counters`: commit a batch, roll to a new day, read a page; `open_counters`. `reads`: pages;
  `group_reads`: one group, and counts per day, with `shard_scripts`.
- `reports`: progress, arrival watermarks and incidents, as workers report them.
- `health`: settings and memory of Redis, from INFO. `evictions`: marks of counters that Redis may
  have evicted.
- `owners`: claims of partitions by workers.

Order of a tenant's life: `generations.create`, then `counters.commit` per batch and
`counters.roll` per day; readers call `counters.read`.
"""
