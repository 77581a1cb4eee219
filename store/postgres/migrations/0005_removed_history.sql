-- Events that were removed with their tenant: those below `next_offset`. The topic may still have them.
CREATE TABLE removed_history (
    tenant_id   text COLLATE "C" NOT NULL,
    log         uuid NOT NULL,
    partition   integer NOT NULL,
    next_offset bigint NOT NULL,
    removed_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, log, partition)
);
