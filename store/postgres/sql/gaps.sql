SELECT log, partition, first_offset, next_offset
FROM history_gaps
ORDER BY log, partition, first_offset
