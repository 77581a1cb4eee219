-- The identity of an event that has an interaction id includes its customer from now on: one id under
-- two customers is two interactions. The rows that are there get the identity that the worker gives
-- such events (`identity` in streams/decode/event.py): the first 16 bytes of SHA-256 over tenant,
-- customer and id, each after its length. Identities without a row keep their old form.
--
-- The table has a new name: a worker of the version before, which would add identities of the old form,
-- finds none and waits.
ALTER TABLE interaction_ids RENAME TO interaction_identities;

DELETE FROM interaction_identities AS i USING interaction_history AS h
WHERE h.tenant_id = i.tenant_id AND h.event_id = i.event_id AND h.interaction_id IS NOT NULL;

WITH rows AS (
    UPDATE interaction_history AS h
    SET event_id = encode(
        substring(
            sha256(
                convert_to(
                    length(tenant_id) || ':' || tenant_id
                    || length(customer_id) || ':' || customer_id
                    || length(interaction_id) || ':' || interaction_id,
                    'UTF8'
                )
            )
            FOR 16
        ),
        'hex'
    )::uuid
    WHERE interaction_id IS NOT NULL
    RETURNING tenant_id, event_id
)
INSERT INTO interaction_identities (tenant_id, event_id)
SELECT tenant_id, event_id FROM rows
ON CONFLICT (tenant_id, event_id) DO NOTHING;
