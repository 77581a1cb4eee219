-- Which of the tenants have a row from their first offset on and before the end, of one partition of
-- one topic id. One lookup in the index per tenant: LATERAL keeps the planner from anything else.
SELECT wanted.ordinal
FROM unnest(%(tenants)s::text[], %(first_offsets)s::bigint[])
    WITH ORDINALITY AS wanted (tenant_id, first_offset, ordinal)
CROSS JOIN LATERAL (
    SELECT FROM interaction_history AS h
    WHERE h.tenant_id = wanted.tenant_id
      AND h.source_log = %(topic_id)s AND h.source_partition = %(partition)s
      AND h.source_offset >= wanted.first_offset AND h.source_offset < %(end)s
    LIMIT 1
) AS held
