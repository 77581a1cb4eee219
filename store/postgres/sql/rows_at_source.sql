-- The ordinals (from 1) of the identities whose row was read from a given range of offsets.
SELECT given.ordinal
FROM unnest(%(tenants)s::text[], %(event_ids)s::uuid[])
    WITH ORDINALITY AS given (tenant_id, event_id, ordinal)
JOIN interaction_history AS h USING (tenant_id, event_id)
WHERE h.tenant_id = ANY(%(distinct_tenants)s::text[])
  AND h.source_log = %(topic_id)s AND h.source_partition = %(partition)s
  AND h.source_offset BETWEEN %(first)s AND %(last)s
