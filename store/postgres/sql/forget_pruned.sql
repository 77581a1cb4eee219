-- Forgets until when a tenant's rows may be sums, if it has none.
DELETE FROM pruned_history
WHERE tenant_id = %(tenant)s
  AND NOT EXISTS (
      SELECT FROM interaction_history
      WHERE tenant_id = %(tenant)s AND event_id = '00000000-0000-0000-0000-000000000000'
  )
