SELECT partition, next_offset FROM history_watermarks WHERE log = %(topic_id)s
