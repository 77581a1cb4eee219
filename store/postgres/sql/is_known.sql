-- Whether a group of {column} ever had an interaction: all rows are read only if it has none in the window of read_trend.
CASE WHEN EXISTS (SELECT FROM counted) THEN true
     ELSE EXISTS (SELECT FROM interaction_history WHERE tenant_id = %(tenant)s AND {column} = %(id)s) END
