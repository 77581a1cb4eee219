SELECT ordinal
FROM unnest(%(tenants)s::text[], %(event_ids)s::uuid[])
    WITH ORDINALITY AS given (tenant_id, event_id, ordinal)
JOIN interaction_identities USING (tenant_id, event_id)
