-- As read_group, for a customer: with a row without an outcome type, which has the distinct offers in each period.
WITH own AS MATERIALIZED (
    SELECT outcome_type, offer_id, occurred_at, n
    FROM interaction_history
    WHERE tenant_id = %(tenant)s AND {column} = %(id)s
)
SELECT outcome_type,
       coalesce(sum(n) FILTER (WHERE occurred_at >= %(daily)s AND occurred_at < %(end)s), 0),
       coalesce(sum(n) FILTER (WHERE occurred_at >= %(weekly)s AND occurred_at < %(end)s), 0),
       coalesce(sum(n) FILTER (WHERE occurred_at >= %(monthly)s AND occurred_at < %(end)s), 0),
       sum(n)
FROM own
GROUP BY outcome_type
UNION ALL
SELECT NULL,
       count(DISTINCT offer_id) FILTER (WHERE occurred_at >= %(daily)s AND occurred_at < %(end)s),
       count(DISTINCT offer_id) FILTER (WHERE occurred_at >= %(weekly)s AND occurred_at < %(end)s),
       count(DISTINCT offer_id) FILTER (WHERE occurred_at >= %(monthly)s AND occurred_at < %(end)s),
       count(DISTINCT offer_id)
FROM own
