-- Bytes on disk of history: all partitions of the events and the table of identities, with indexes.
SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
WHERE oid IN (SELECT inhrelid FROM pg_inherits
              WHERE inhparent = to_regclass('interaction_history'))
   OR oid = to_regclass('interaction_ids')
