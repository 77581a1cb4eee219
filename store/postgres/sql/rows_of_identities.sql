-- The ordinals (from 1) of the identities that have a row. Rows have no index on identities, so
-- this reads all rows of these tenants.
SELECT DISTINCT given.ordinal
FROM unnest(%(tenants)s::text[], %(event_ids)s::uuid[])
    WITH ORDINALITY AS given (tenant_id, event_id, ordinal)
JOIN interaction_history AS h USING (tenant_id, event_id)
WHERE h.tenant_id = ANY(%(distinct_tenants)s::text[])
