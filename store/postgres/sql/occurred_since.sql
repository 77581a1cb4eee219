occurred_at >= %(since)s
