-- Sums of the groups of {column} per bucket of days and outcome type, in the order of the groups.
SELECT {column}, width_bucket(occurred_at, %(midnights)s::timestamptz[]) AS bucket, outcome_type, sum(n)
FROM interaction_history
WHERE tenant_id = %(tenant)s AND {column} IS NOT NULL AND {source} AND {days}
GROUP BY {column}, bucket, outcome_type
ORDER BY {column} COLLATE "C"
