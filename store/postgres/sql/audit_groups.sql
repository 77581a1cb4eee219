-- Counts of some groups of {column} by day, outcome type and, for customers, offer. Of each source
-- (log, partition), rows below `first` are counted together; rows from there up to `end` come one by
-- one, with their position, for the caller to decide about.
SELECT h.{column} AS id, {offer} AS offer,
       width_bucket(h.occurred_at, %(midnights)s::timestamptz[]) AS bucket, h.outcome_type,
       CASE WHEN h.source_offset >= s.first THEN s.ordinal END AS source,
       CASE WHEN h.source_offset >= s.first THEN h.source_offset END AS source_offset,
       sum(h.n)
FROM interaction_history AS h
JOIN unnest(%(logs)s::uuid[], %(partitions)s::integer[], %(firsts)s::bigint[], %(ends)s::bigint[])
    WITH ORDINALITY AS s (log, partition, first, "end", ordinal)
    ON h.source_log = s.log AND h.source_partition = s.partition AND h.source_offset < s."end"
WHERE h.tenant_id = %(tenant)s AND {ids} AND {days} AND {shard}
GROUP BY 1, 2, 3, 4, 5, 6
ORDER BY h.{column}
