-- The next offset to store of every partition of every topic id.
SELECT log, partition, next_offset FROM history_watermarks
