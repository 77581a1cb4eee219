-- First write of a partition: inserts only if no watermark is stored. Waits for a concurrent
-- writer's uncommitted insert, which then wins.
INSERT INTO history_watermarks (log, partition, topic, next_offset)
VALUES (%(topic_id)s, %(partition)s, %(topic)s, %(next_offset)s)
ON CONFLICT (log, partition) DO NOTHING
