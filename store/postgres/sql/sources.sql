-- The lowest offset of every (topic id, partition) that the tenant's history was read from. Jumps
-- from one pair to the next in the index: a few lookups per pair, however many rows there are.
WITH RECURSIVE sources AS (
    (
        SELECT source_log, source_partition, source_offset
        FROM interaction_history
        WHERE tenant_id = %(tenant)s
        ORDER BY source_log, source_partition, source_offset
        LIMIT 1
    )
    UNION ALL
    SELECT next.source_log, next.source_partition, next.source_offset
    FROM sources CROSS JOIN LATERAL (
        SELECT h.source_log, h.source_partition, h.source_offset
        FROM interaction_history AS h
        WHERE h.tenant_id = %(tenant)s
          AND (h.source_log, h.source_partition)
              > (sources.source_log, sources.source_partition)
        ORDER BY h.source_log, h.source_partition, h.source_offset
        LIMIT 1
    ) AS next
)
SELECT source_log, source_partition, source_offset FROM sources
