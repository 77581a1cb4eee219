NOT (source_log = %(topic_id)s AND source_offset >= (%(ends)s::bigint[])[source_partition + 1])
