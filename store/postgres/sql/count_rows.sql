-- Number of a tenant's rows.
SELECT count(*) FROM interaction_history WHERE tenant_id = %(tenant)s AND {source} AND {days}
