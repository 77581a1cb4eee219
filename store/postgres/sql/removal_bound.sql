-- The time of a tenant's last row of a batch: the batch has the rows after `after` up to this time.
SELECT occurred_at FROM interaction_history
WHERE tenant_id = %(tenant)s AND (%(after)s::timestamptz IS NULL OR occurred_at > %(after)s)
ORDER BY occurred_at
OFFSET %(rows)s LIMIT 1
