-- Registers the identities and returns the ordinals (from 1) of those that were already known. All
-- writers insert in the same order, so that concurrent writers of the same identities wait for each
-- other and do not deadlock.
WITH given AS (
    SELECT tenant_id, event_id, ordinal
    FROM unnest(%(tenants)s::text[], %(event_ids)s::uuid[])
        WITH ORDINALITY AS given (tenant_id, event_id, ordinal)
), fresh AS (
    INSERT INTO interaction_identities (tenant_id, event_id)
    SELECT tenant_id, event_id FROM given ORDER BY tenant_id COLLATE "C", event_id
    ON CONFLICT (tenant_id, event_id) DO NOTHING
    RETURNING tenant_id, event_id
)
SELECT given.ordinal
FROM given LEFT JOIN fresh
    ON fresh.tenant_id = given.tenant_id AND fresh.event_id = given.event_id
WHERE fresh.event_id IS NULL
