INSERT INTO api_keys (tenant_id, role, key_hash, prefix, name, pepper_id, rate_limit_per_minute)
VALUES (%(tenant)s, %(role)s, %(key_hash)s, %(prefix)s, %(name)s, %(pepper_id)s, %(rate_limit)s)
RETURNING id::text, tenant_id, role, name, prefix, rate_limit_per_minute, created_at, revoked_at, pepper_id
