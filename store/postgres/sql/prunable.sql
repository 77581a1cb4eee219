-- Condition on the rows that may be summed up: no sums, not arrived lately, and not in the topic any
-- more, since a rebuild would read them there again.
event_id <> '00000000-0000-0000-0000-000000000000' AND recorded_at < %(before)s AND {source}
