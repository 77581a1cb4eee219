-- Interactions of one group of {column} per outcome type, in each period.
SELECT outcome_type,
       coalesce(sum(n) FILTER (WHERE occurred_at >= %(daily)s AND occurred_at < %(end)s), 0),
       coalesce(sum(n) FILTER (WHERE occurred_at >= %(weekly)s AND occurred_at < %(end)s), 0),
       coalesce(sum(n) FILTER (WHERE occurred_at >= %(monthly)s AND occurred_at < %(end)s), 0),
       sum(n)
FROM interaction_history
WHERE tenant_id = %(tenant)s AND {column} = %(id)s
GROUP BY outcome_type
