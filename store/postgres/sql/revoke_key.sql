UPDATE api_keys SET revoked_at = coalesce(revoked_at, now())
WHERE id = %(id)s AND tenant_id = coalesce(%(tenant)s, tenant_id)
RETURNING id::text, tenant_id, role, name, prefix, rate_limit_per_minute, created_at, revoked_at, pepper_id
