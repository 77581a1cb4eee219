-- Replaces a tenant's rows of a range of times within one day by their sums. A sum has the last time and
-- the last offset of its rows, and no identity. Returns how many rows went, and how many sums came.
WITH gone AS (
    DELETE FROM interaction_history
    WHERE tenant_id = %(tenant)s AND occurred_at >= %(start)s
      AND occurred_at <= coalesce(%(up_to)s, %(end)s - interval '1 microsecond') AND {prunable}
    RETURNING *
), sums AS (
    INSERT INTO interaction_history (
        tenant_id, event_id, customer_id, offer_id, creative_id, channel_id, outcome_type,
        occurred_at, source_topic, source_log, source_partition, source_offset, recorded_at, n
    )
    SELECT tenant_id, '00000000-0000-0000-0000-000000000000', customer_id, offer_id, creative_id, channel_id, outcome_type,
           max(occurred_at), source_topic, source_log, source_partition, max(source_offset),
           max(recorded_at), sum(n)
    FROM gone
    GROUP BY tenant_id, customer_id, offer_id, creative_id, channel_id, outcome_type,
             source_topic, source_log, source_partition
    RETURNING 1
)
SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM sums)
