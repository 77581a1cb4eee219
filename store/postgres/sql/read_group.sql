-- Interactions of one group of {column} per outcome type, in each period.
SELECT outcome_type,
       count(*) FILTER (WHERE occurred_at >= %(daily)s AND occurred_at < %(end)s),
       count(*) FILTER (WHERE occurred_at >= %(weekly)s AND occurred_at < %(end)s),
       count(*) FILTER (WHERE occurred_at >= %(monthly)s AND occurred_at < %(end)s),
       count(*)
FROM interaction_history
WHERE tenant_id = %(tenant)s AND {column} = %(id)s
GROUP BY outcome_type
