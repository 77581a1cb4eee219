-- Dead letters that were sent to the source topic again, by the position of the original record.
CREATE TABLE redriven_letters (
    log         text COLLATE "C" NOT NULL,
    partition   integer NOT NULL,
    "offset"    bigint NOT NULL,
    redriven_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (log, partition, "offset")
);
