-- Whether the tenant has a row at or after a given offset of one partition of one topic id.
SELECT EXISTS (
    SELECT FROM interaction_history
    WHERE tenant_id = %(tenant)s AND source_log = %(topic_id)s AND source_partition = %(partition)s
      AND source_offset >= %(offset)s
)
