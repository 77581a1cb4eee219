-- The same for customers, with the offer: for the last day of each offer.
SELECT customer_id, offer_id, width_bucket(occurred_at, %(midnights)s::timestamptz[]) AS bucket,
       outcome_type, sum(n)
FROM interaction_history
WHERE tenant_id = %(tenant)s AND {source} AND {days}
GROUP BY customer_id, offer_id, bucket, outcome_type
ORDER BY customer_id COLLATE "C"
