INSERT INTO quarantined_records (
    log, topic, partition, "offset", next_offset, tenant_id, reason, error, size_bytes, sha256,
    value_start, key_start, timestamp_ms
)
VALUES (
    %(topic_id)s, %(topic)s, %(partition)s, %(offset)s, %(next_offset)s, %(tenant)s, %(reason)s,
    %(error)s, %(size)s, %(sha256)s, %(value)s, %(key)s, %(timestamp_ms)s
)
ON CONFLICT (log, partition, "offset") DO NOTHING
