-- Moves the watermark only from where the writer believes it to be. A rival's uncommitted update is
-- waited for, and the condition judged again on what it left.
UPDATE history_watermarks
SET next_offset = %(next_offset)s, topic = %(topic)s, updated_at = now()
WHERE log = %(topic_id)s AND partition = %(partition)s AND next_offset = %(first)s
