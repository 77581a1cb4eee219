DELETE FROM quarantined_records WHERE recorded_at < now() - interval '90 days'
