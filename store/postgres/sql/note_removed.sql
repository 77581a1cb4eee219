-- Notes the offsets below which a tenant's events were removed.
INSERT INTO removed_history (tenant_id, log, partition, next_offset)
SELECT %(tenant)s, log, partition, next_offset
FROM unnest(%(topic_ids)s::uuid[], %(partitions)s::integer[], %(ends)s::bigint[])
    AS given (log, partition, next_offset)
ON CONFLICT (tenant_id, log, partition) DO UPDATE
SET next_offset = greatest(removed_history.next_offset, excluded.next_offset), removed_at = now()
