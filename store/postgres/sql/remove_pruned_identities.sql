-- Deletes identities without a row of a tenant that was pruned, at most a given number, though the tenant has
-- later rows. None while a sum is left: they may be of its events. Reads all rows of the tenant.
DELETE FROM interaction_identities
WHERE tenant_id = %(tenant)s
  AND EXISTS (SELECT FROM pruned_history WHERE tenant_id = %(tenant)s)
  AND NOT EXISTS (
      SELECT FROM interaction_history
      WHERE tenant_id = %(tenant)s AND event_id = '00000000-0000-0000-0000-000000000000'
  )
  AND event_id IN (
      SELECT i.event_id FROM interaction_identities AS i
      WHERE i.tenant_id = %(tenant)s
        AND NOT EXISTS (
            SELECT FROM interaction_history AS h WHERE h.tenant_id = i.tenant_id AND h.event_id = i.event_id
        )
      LIMIT %(identities)s
  )
