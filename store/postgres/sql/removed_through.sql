SELECT partition, next_offset FROM removed_history
WHERE tenant_id = %(tenant)s AND log = %(topic_id)s
