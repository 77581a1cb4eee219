-- Number of a tenant's rows before a time that may be summed up.
SELECT count(*) FROM interaction_history
WHERE tenant_id = %(tenant)s AND occurred_at < %(before)s AND {prunable}
