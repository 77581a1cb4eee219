-- API keys: their name, the pepper of their hash, and their own rate limit.
ALTER TABLE api_keys
    ADD COLUMN name text NOT NULL DEFAULT '',
    ADD COLUMN pepper_id text NOT NULL DEFAULT '',
    ADD COLUMN rate_limit_per_minute integer CHECK (rate_limit_per_minute > 0);

-- A random number that is new after each change of a key. Readers ask for it every second, and load
-- the keys if it differs. It is not counted: a failover or a restored backup loses the last changes,
-- and the next change would get the number that readers know as that of a lost one. They would then
-- not load it, and accept a revoked key. The lock on its row makes changes take effect one after the
-- other, so no version is seen before the change that it stands for.
CREATE TABLE api_keys_version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint NOT NULL
);
INSERT INTO api_keys_version (version) VALUES (1);

CREATE FUNCTION note_api_keys_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE api_keys_version
    SET version = ('x' || replace(gen_random_uuid()::text, '-', ''))::bit(63)::bigint;
    RETURN NULL;
END $$;

CREATE TRIGGER api_keys_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION note_api_keys_change();
