-- Groups of {column} of the first rows after some instants: a few index lookups for each. Looks at 100
-- rows, as a tenant may have none with a group.
SELECT DISTINCT picked.id
FROM unnest(%(instants)s::timestamptz[]) AS at (instant) CROSS JOIN LATERAL (
    SELECT near.id FROM (
        SELECT {column} AS id FROM interaction_history
        WHERE tenant_id = %(tenant)s AND occurred_at >= at.instant AND {shard}
        ORDER BY occurred_at LIMIT 100
    ) AS near
    WHERE near.id IS NOT NULL
    LIMIT 1
) AS picked
