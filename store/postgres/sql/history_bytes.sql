-- Bytes on disk of all history partitions and of the identities, with indexes and TOAST. 0 where
-- the tables do not exist yet.
SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
WHERE oid IN (SELECT inhrelid FROM pg_inherits
              WHERE inhparent = to_regclass('interaction_history'))
   OR oid = to_regclass('interaction_identities')
