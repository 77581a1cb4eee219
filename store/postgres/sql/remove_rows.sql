-- Deletes a tenant's rows of a range of times, with their identities. Rows of the topic that is read now
-- stay from the offsets in `ends` on: their events came after the removal.
WITH removed AS (
    DELETE FROM interaction_history AS h
    WHERE h.tenant_id = %(tenant)s
      AND (%(after)s::timestamptz IS NULL OR h.occurred_at > %(after)s)
      AND (%(up_to)s::timestamptz IS NULL OR h.occurred_at <= %(up_to)s)
      AND NOT (
          h.source_log = %(topic_id)s
          AND h.source_offset >= coalesce(
              (
                  SELECT ends.next_offset
                  FROM unnest(%(partitions)s::integer[], %(ends)s::bigint[])
                      AS ends (partition, next_offset)
                  WHERE ends.partition = h.source_partition
              ), 0
          )
      )
    RETURNING h.event_id, h.n
), identities AS (
    DELETE FROM interaction_identities AS i USING removed
    WHERE i.tenant_id = %(tenant)s AND i.event_id = removed.event_id
)
SELECT coalesce(sum(n), 0) FROM removed
