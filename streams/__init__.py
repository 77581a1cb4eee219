"""Events in: the stream processor, from a fetched batch to both stores.

An event passes through these files, in this order:

- `kafka.consumer`: fetches the records of one partition as one `Batch`
- `partition_queue`: holds the batches that wait for the partition's task
- `pipeline`: one task per partition; decodes, sends dead letters, commits, stores
- `commit_batch_size`: how many records of a batch become one commit batch
- `commit_batch`, `decode`: turn records into events, and reject what must not be counted
- `dead_letters`: sends rejected records to the dead-letter topic
- `aggregate`: sums the events of one tenant
- `tenant_commits`, `commit`, `tenant_state`: commit the sums to the counters, in one fenced script
- `history_sink`, `history_session`: write the events to Postgres, then acknowledge them to Kafka

Around them: `worker` builds all parts, `faust_app` runs them; `assignment` finds where to start
reading; `log_changes` handles a recreated or truncated topic; `rollover` is the daily roll;
`progress`, `arrival_watermarks` and `freshness` report; `watchdog` notices stalls, on which
`stall_check` ends the process; `redis_watch` looks at the settings of Redis, and marks counters
that it may have evicted; `isolation` finds the record on which the program fails; `rebuild` builds
counters from history; `audit` compares them with it; `tracing` makes spans of commit batches and
history transactions; `endpoints` serves metrics and `health`.
"""
