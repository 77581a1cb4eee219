-- The tenants that have a history. Jumps from one to the next in the index: a few lookups
-- per tenant, however many rows there are.
WITH RECURSIVE tenants AS (
    (SELECT tenant_id FROM interaction_identities ORDER BY tenant_id LIMIT 1)
    UNION ALL
    SELECT (
        SELECT i.tenant_id FROM interaction_identities AS i
        WHERE i.tenant_id > tenants.tenant_id ORDER BY i.tenant_id LIMIT 1
    )
    FROM tenants WHERE tenants.tenant_id IS NOT NULL
)
SELECT tenant_id FROM tenants WHERE tenant_id IS NOT NULL
