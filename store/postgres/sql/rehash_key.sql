UPDATE api_keys SET key_hash = %(key_hash)s, pepper_id = %(pepper_id)s
WHERE id = %(id)s AND key_hash = %(old_hash)s AND revoked_at IS NULL
