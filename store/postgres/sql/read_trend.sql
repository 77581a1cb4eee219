-- Interactions of some groups per day and outcome type; bucket 1 is the first day. Always at least one row, with
-- nulls if there are none. The first column is whether the group asked for ever had an interaction.
WITH counted AS (
    SELECT width_bucket(occurred_at, %(midnights)s::timestamptz[]) AS bucket, outcome_type, sum(n) AS n
    FROM interaction_history
    WHERE tenant_id = %(tenant)s AND occurred_at >= %(start)s AND occurred_at < %(end)s AND {group}
    GROUP BY bucket, outcome_type
)
SELECT {known}, bucket, outcome_type, n
FROM (SELECT) AS always LEFT JOIN counted ON true
