INSERT INTO redriven_letters (log, partition, "offset")
SELECT * FROM unnest(%(logs)s::text[], %(partitions)s::integer[], %(offsets)s::bigint[])
ON CONFLICT (log, partition, "offset") DO NOTHING
