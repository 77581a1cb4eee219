-- First day and the day after the last of every partition of history, in order; null = unbounded.
-- The bounds are texts in the session's time zone and date style, which must be UTC and ISO.
SELECT (regexp_match(bound, 'FROM \(''(\d{4}-\d{2}-\d{2})'))[1]::date AS first_day,
       (regexp_match(bound, 'TO \(''(\d{4}-\d{2}-\d{2})'))[1]::date AS next_day
FROM pg_inherits
JOIN pg_class ON pg_class.oid = inhrelid
CROSS JOIN pg_get_expr(relpartbound, pg_class.oid) AS bound
WHERE inhparent = 'interaction_history'::regclass
ORDER BY first_day NULLS FIRST
