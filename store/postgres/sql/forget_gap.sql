DELETE FROM history_gaps
WHERE log = %(topic_id)s AND partition = %(partition)s AND first_offset = %(first_offset)s
