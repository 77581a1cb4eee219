-- Time of a tenant's row in a range of times that may be summed up: of the first one after `rows` others.
SELECT occurred_at FROM interaction_history
WHERE tenant_id = %(tenant)s AND occurred_at >= %(start)s AND occurred_at < %(end)s AND {prunable}
ORDER BY occurred_at
OFFSET %(rows)s LIMIT 1
