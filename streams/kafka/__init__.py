"""All code that uses a Kafka client: Faust's driver, aiokafka and kafka-python.

Modules:

- `connection`: addresses, TLS and authentication of all clients, and why a connection is refused.
- `consumer`: Faust consumer and transport that deliver batches; used by the worker.
- `producers`: producers of dead letters and redriven events, with transactions where supported.
- `sender`: producer of many small events, for `load` and the benchmarks.
- `topic_id`: topic id and number of partitions of a topic.
- `topic_reader`: reads ranges of partitions and their ends outside of any consumer group.
- `topic_settings`: settings of the topics that weaken a promise, and what they cost.
- `topic_size`: how many records a topic holds, and how old the newest is.
- `record_time`: timestamps of records that are no time in ms.
- `topic_scan`: reads all partitions of the interactions topic at once, for replays.
- `lenient_records`: reads records whose header names are not UTF-8, and past corrupt batches.
- `corrupt_batch`: what stands for a batch that cannot be read.
- `errors`: `kafka_errors()`, which turns the clients' exceptions into StoreUnavailable.

Only this package (and `cli/migrate`, which creates topics) imports a Kafka client, because it
relies on members that are private or undocumented. Any release may change them, so the dependencies
are pinned to one minor version (faust-streaming 0.15, mode-streaming 0.7, aiokafka 0.14), and to
one major version where only public members are used (kafka-python 3):

- Faust, `AIOKafkaConsumerThread`: overrides `on_start`, `_create_worker_consumer`,
  `_commit`; calls `_ensure_consumer`, `call_thread`, `assignment`.
- Faust, `Consumer`: overrides `_new_consumer_thread`, `getmany`, `seek_to_committed`,
  `on_partitions_assigned`, `verify_event_path`, `_add_gap`, `_new_offset`; calls
  `_wait_next_records`, `perform_seek`, `seek_wait`, `pause_partitions`, `resume_partitions`; reads
  `_thread`, `_buffered_partitions`, `_acked`, `_acked_index`, `flow_active`, and the app's
  `consumer_generation_id`.
- aiokafka, `AIOKafkaConsumer`: sets `_fetch_max_wait_ms`, `_isolation_level`; replaces
  `_fetcher._proc_fetch_request`; reads `_subscription.subscription.assignment.state_value`, and of
  the state `highwater`, `lso`, `timestamp`, `_position`; calls
  `_coordinator.request_rejoin`. `seek` raises IllegalStateError where a partition is not assigned.
- aiokafka: replaces `consumer.fetcher.MemoryRecords`; uses `_DefaultRecordBatchPy` with its
  `_buffer` and `_maybe_uncompress`.
- aiokafka: adds an error to `errors.kafka_errors`; calls `conn.create_conn` and sends
  `protocol.metadata.MetadataRequest` on it, to learn why a broker cannot be used.
- aiokafka, `AIOKafkaProducer`: sets `_closed`; calls `_sender.close` and `client.close`; reads
  `_txn_manager.wait_for_transaction_end` and `_message_accumulator._batches`.
- kafka-python, `KafkaAdminClient`: `describe_topics` must return `topic_id`, which needs 3.0.12. It
  also raises AssertionError where a broker does not answer as expected.
"""
