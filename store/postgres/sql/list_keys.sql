SELECT id::text, tenant_id, role, name, prefix, rate_limit_per_minute, created_at, revoked_at, pepper_id
FROM api_keys
WHERE tenant_id = coalesce(%(tenant)s, tenant_id)
ORDER BY tenant_id, created_at, id
