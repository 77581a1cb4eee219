-- Records that could be neither counted nor sent to the dead-letter topic.
CREATE TABLE quarantined_records (
    log          uuid NOT NULL,
    topic        text NOT NULL,
    partition    integer NOT NULL,
    "offset"     bigint NOT NULL,
    next_offset  bigint NOT NULL,  -- the first offset after the record, or after the corrupt batch
    tenant_id    text COLLATE "C",  -- null: not known
    reason       text NOT NULL,
    error        text NOT NULL,
    size_bytes   bigint,  -- of the whole value; null: not known
    sha256       bytea,
    value_start  bytea,
    key_start    bytea,
    timestamp_ms bigint,  -- the record's own, in whatever unit its producer used
    recorded_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (log, partition, "offset")
);
CREATE INDEX quarantined_records_recorded_at ON quarantined_records (recorded_at);
