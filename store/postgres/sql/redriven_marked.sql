SELECT ordinal, redriven_at
FROM unnest(%(logs)s::text[], %(partitions)s::integer[], %(offsets)s::bigint[])
    WITH ORDINALITY AS given (log, partition, "offset", ordinal)
JOIN redriven_letters USING (log, partition, "offset")
