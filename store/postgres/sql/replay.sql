-- The columns that counting needs, of every row of a tenant, in order of arrival.
SELECT event_id, customer_id, offer_id, creative_id, channel_id, outcome_type, occurred_at,
       recorded_at
FROM interaction_history
WHERE tenant_id = %(tenant)s
ORDER BY recorded_at
