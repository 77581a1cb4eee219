-- The tenants that have more identities than events in rows, with the difference.
SELECT tenant_id, ids.number - coalesce(rows.number, 0)
FROM (
    SELECT tenant_id, count(*) AS number FROM interaction_identities
    WHERE %(tenant)s::text IS NULL OR tenant_id = %(tenant)s
    GROUP BY tenant_id
) AS ids
LEFT JOIN (
    SELECT tenant_id, sum(n) AS number FROM interaction_history
    WHERE %(tenant)s::text IS NULL OR tenant_id = %(tenant)s
    GROUP BY tenant_id
) AS rows USING (tenant_id)
WHERE ids.number > coalesce(rows.number, 0)
