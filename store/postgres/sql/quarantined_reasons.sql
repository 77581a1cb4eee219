SELECT reason, count(*), max(recorded_at) FROM quarantined_records GROUP BY reason ORDER BY reason
