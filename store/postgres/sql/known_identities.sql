SELECT place
FROM unnest(%(tenants)s::text[], %(event_ids)s::uuid[])
    WITH ORDINALITY AS given (tenant_id, event_id, place)
JOIN interaction_ids USING (tenant_id, event_id)
