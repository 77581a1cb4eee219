-- Indexes for the questions that history answers. Writers of history wait while they are built, about
-- 5 s for a million rows; readers do not.

-- A tenant's rows in a range of days, with all that a question groups by and counts: no row is
-- visited where vacuum has been. An index entry has at most 2,704 bytes: ids of 128 characters of 4
-- bytes each fit.
CREATE INDEX interaction_history_days
    ON interaction_history (tenant_id, occurred_at)
    INCLUDE (customer_id, offer_id, creative_id, channel_id, outcome_type);

-- The rows of one customer. Not for the other groupings, whose groups are few and have many rows:
-- the index above has all that is read of them.
CREATE INDEX interaction_history_customer ON interaction_history (tenant_id, customer_id);

-- Vacuum marks the pages whose rows an index-only scan need not visit. By default it waits for a
-- fifth of the rows of a month to be new. New partitions get the same setting when they are created.
DO $$
DECLARE partition regclass;
BEGIN
    FOR partition IN SELECT inhrelid FROM pg_inherits
                     WHERE inhparent = 'interaction_history'::regclass
    LOOP
        EXECUTE format(
            'ALTER TABLE %s SET (autovacuum_vacuum_insert_scale_factor = 0.02)', partition
        );
    END LOOP;
END $$;

-- Last, as it makes readers wait until the end of the transaction.
DROP INDEX interaction_history_time;
