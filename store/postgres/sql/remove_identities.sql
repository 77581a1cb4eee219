-- Deletes identities of a tenant that has no row, at most a given number: those of rows that were lost.
DELETE FROM interaction_identities
WHERE tenant_id = %(tenant)s
  AND event_id IN (
      SELECT event_id FROM interaction_identities WHERE tenant_id = %(tenant)s LIMIT %(identities)s
  )
  AND NOT EXISTS (SELECT FROM interaction_history WHERE tenant_id = %(tenant)s)
