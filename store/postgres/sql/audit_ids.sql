-- The groups of {column} that the tenant's history has.
SELECT DISTINCT {column} FROM interaction_history
WHERE tenant_id = %(tenant)s AND {column} IS NOT NULL AND {shard}
