-- Registers the identities of the rows that have none. In the order of take_identities, so that
-- concurrent writers do not deadlock.
INSERT INTO interaction_identities (tenant_id, event_id)
SELECT h.tenant_id, h.event_id
FROM interaction_history AS h
WHERE (%(tenant)s::text IS NULL OR h.tenant_id = %(tenant)s)
  AND h.event_id <> '00000000-0000-0000-0000-000000000000'  -- a sum: see prune_rows.sql
  AND NOT EXISTS (
      SELECT FROM interaction_identities AS i WHERE i.tenant_id = h.tenant_id AND i.event_id = h.event_id
  )
ORDER BY h.tenant_id COLLATE "C", h.event_id
ON CONFLICT (tenant_id, event_id) DO NOTHING
