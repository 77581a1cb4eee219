-- First day of the last month that has a partition; null if there is none. Taken from the name,
-- which is made of the month: parsing a partition's bounds depends on the session's time zone.
SELECT max(to_date(substring(relname FROM '\d{4}_\d{2}$'), 'YYYY_MM'))
FROM pg_inherits
JOIN pg_class ON pg_class.oid = inhrelid
WHERE inhparent = 'interaction_history'::regclass
  AND relname ~ '^interaction_history_\d{4}_\d{2}$'
