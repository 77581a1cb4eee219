-- Offsets that history lacks, since retention deleted them before they were stored.
SELECT log, partition, first_offset, next_offset FROM history_gaps
