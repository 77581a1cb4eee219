-- Offsets that history lacks: retention deleted them before they were stored.
CREATE TABLE history_gaps (
    log          uuid NOT NULL,
    partition    integer NOT NULL,
    first_offset bigint NOT NULL,
    next_offset  bigint NOT NULL,  -- the first offset after the gap
    noted_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (log, partition, first_offset)
);
