-- Notes offsets that history lacks. A worker that meets the same gap again may find it longer.
INSERT INTO history_gaps (log, partition, first_offset, next_offset)
VALUES (%(topic_id)s, %(partition)s, %(first_offset)s, %(next_offset)s)
ON CONFLICT (log, partition, first_offset)
DO UPDATE SET next_offset = greatest(history_gaps.next_offset, excluded.next_offset)
