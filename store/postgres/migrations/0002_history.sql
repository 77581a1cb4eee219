-- Every interaction, one row each, without a time limit.

CREATE TABLE interaction_history (
    tenant_id         text COLLATE "C" NOT NULL,
    event_id          uuid NOT NULL,
    interaction_id    text,
    customer_id       text COLLATE "C" NOT NULL,
    offer_id          text COLLATE "C" NOT NULL,
    creative_id       text COLLATE "C",
    channel_id        text COLLATE "C",
    outcome_type      text COLLATE "C" NOT NULL,
    direction         text,
    campaign_id       text,
    recommendation_id text,
    conversion_value  double precision,
    occurred_at       timestamptz NOT NULL,
    source_topic      text NOT NULL,
    source_log        uuid NOT NULL,
    source_partition  integer NOT NULL,
    source_offset     bigint NOT NULL,
    recorded_at       timestamptz NOT NULL,
    context           json  -- not jsonb, which refuses \u0000 and rewrites numbers
) PARTITION BY RANGE (occurred_at);

-- For the reader's fallback: a tenant's rows in a range of days.
CREATE INDEX interaction_history_time ON interaction_history (tenant_id, occurred_at);

-- For a rebuild: a tenant's rows by source position, and the list of sources.
CREATE INDEX interaction_history_source
    ON interaction_history (tenant_id, source_log, source_partition, source_offset);

-- Decides which events are new. A unique index on a partitioned table must contain the partition key, so it
-- could not keep an identity unique across times; this table has no partitions.
CREATE TABLE interaction_ids (
    tenant_id text COLLATE "C" NOT NULL,
    event_id  uuid NOT NULL,
    PRIMARY KEY (tenant_id, event_id)
);

-- Offsets of a topic id below `next_offset` are in history. Updated in one transaction with the rows.
CREATE TABLE history_watermarks (
    log         uuid NOT NULL,
    partition   integer NOT NULL,
    topic       text NOT NULL,
    next_offset bigint NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (log, partition)
);
