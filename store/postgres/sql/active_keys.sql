SELECT id::text, tenant_id, role, key_hash, rate_limit_per_minute
FROM api_keys
WHERE revoked_at IS NULL
