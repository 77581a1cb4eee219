-- Time of the last event of each customer with each offer before a given instant.
SELECT customer_id, offer_id, max(occurred_at)
FROM interaction_history
WHERE tenant_id = %(tenant)s AND occurred_at < %(before)s
GROUP BY customer_id, offer_id
