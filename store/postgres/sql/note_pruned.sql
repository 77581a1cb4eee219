-- Notes the time before which a tenant's rows may be sums.
INSERT INTO pruned_history (tenant_id, before) VALUES (%(tenant)s, %(before)s)
ON CONFLICT (tenant_id) DO UPDATE
SET before = greatest(pruned_history.before, excluded.before), pruned_at = now()
