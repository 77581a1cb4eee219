-- The first write of a partition: taken only while no watermark is stored. A rival's uncommitted
-- insert is waited for, and then wins.
INSERT INTO history_watermarks (log, partition, topic, next_offset)
VALUES (%(topic_id)s, %(partition)s, %(topic)s, %(next_offset)s)
ON CONFLICT (log, partition) DO NOTHING
