-- The identities of the events that arrived since a given instant, or in given slots: the slot of arrival (a day, UTC),
-- the partition, and the first halves of the identities with the low 32 bits of their offsets,
-- concatenated. A slot has 256 parts of each partition, so that no value grows too large.
SELECT floor(extract(epoch FROM recorded_at) / 86400)::integer AS slot,
       source_log, source_partition,
       string_agg(
           substring(uuid_send(event_id) FROM 1 FOR 8)
               || substring(int8send(source_offset) FROM 5 FOR 4),
           ''::bytea
       )
FROM interaction_history
WHERE tenant_id = %(tenant)s AND recorded_at >= %(since)s AND {source}
  AND event_id <> '00000000-0000-0000-0000-000000000000'  -- a sum: see prune_rows.sql
  AND (recorded_at >= %(recent)s
       OR floor(extract(epoch FROM recorded_at) / 86400)::integer = ANY(%(slots)s::integer[]))
GROUP BY slot, source_log, source_partition, get_byte(uuid_send(event_id), 0)
ORDER BY slot
