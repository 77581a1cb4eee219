-- Moves the watermark only if it is the expected one. Waits for a concurrent writer's uncommitted
-- update, and then checks the condition on its result.
UPDATE history_watermarks
SET next_offset = %(next_offset)s, topic = %(topic)s, updated_at = now()
WHERE log = %(topic_id)s AND partition = %(partition)s AND next_offset = %(expected_offset)s
