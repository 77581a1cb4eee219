-- Number of events that a tenant's rows stand for.
SELECT coalesce(sum(n), 0) FROM interaction_history WHERE tenant_id = %(tenant)s AND {source} AND {days}
