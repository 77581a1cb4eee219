SELECT next_offset FROM history_watermarks WHERE log = %(log)s AND partition = %(partition)s
