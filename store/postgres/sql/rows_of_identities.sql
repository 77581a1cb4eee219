-- The ordinals (from 1) of the identities that have a row, or whose row may have been summed up: see
-- prune_rows.sql. Rows have no index on identities, so this reads all rows of these tenants.
SELECT given.ordinal
FROM unnest(%(tenants)s::text[], %(event_ids)s::uuid[])
    WITH ORDINALITY AS given (tenant_id, event_id, ordinal)
JOIN interaction_history AS h USING (tenant_id, event_id)
WHERE h.tenant_id = ANY(%(distinct_tenants)s::text[])
UNION
SELECT given.ordinal
FROM unnest(%(tenants)s::text[], %(occurred)s::timestamptz[])
    WITH ORDINALITY AS given (tenant_id, occurred_at, ordinal)
JOIN pruned_history AS pruned USING (tenant_id)
WHERE given.occurred_at < pruned.before
