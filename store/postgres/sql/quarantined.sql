SELECT
    log::text, topic, partition, "offset", next_offset, tenant_id, reason, error, size_bytes,
    sha256, value_start, key_start, timestamp_ms, recorded_at
FROM quarantined_records
WHERE (%(reason)s::text IS NULL OR reason = %(reason)s)
    AND (%(partition)s::integer IS NULL OR partition = %(partition)s)
    AND (
        %(offset)s::bigint IS NULL
        OR ("offset" <= %(offset)s AND next_offset > %(offset)s)
    )
ORDER BY recorded_at DESC, partition, "offset" DESC
LIMIT %(limit)s
