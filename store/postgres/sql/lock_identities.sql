-- Locks the identities until the transaction ends, in the order of take_identities.
WITH locked AS (
    SELECT i.event_id
    FROM unnest(%(tenants)s::text[], %(event_ids)s::uuid[]) AS given (tenant_id, event_id)
    JOIN interaction_identities AS i USING (tenant_id, event_id)
    ORDER BY i.tenant_id COLLATE "C", i.event_id
    FOR UPDATE OF i
)
SELECT count(*) FROM locked
