SELECT partition, next_offset FROM history_watermarks WHERE log = %(log)s
