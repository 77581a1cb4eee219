-- Old rows may be summed up: see prune_rows.sql and docs/adr/0028-pruned-history.md. All rows that are
-- there stand for one event each; they are not rewritten.
ALTER TABLE interaction_history
    ADD COLUMN n integer NOT NULL DEFAULT 1;  -- events that the row stands for

-- Until when a tenant's rows may be sums. An identity of an earlier event may have no row.
CREATE TABLE pruned_history (
    tenant_id text COLLATE "C" PRIMARY KEY,
    before    timestamptz NOT NULL,
    pruned_at timestamptz NOT NULL DEFAULT now()
);
