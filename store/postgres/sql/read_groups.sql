-- One page of the groups of {column}, and the number of groups. Always at least one row: the total,
-- with nulls if the page is beyond the end.
WITH counted AS (
    SELECT {column} AS id, outcome_type, sum(n) AS n
    FROM interaction_history
    WHERE tenant_id = %(tenant)s AND {days} AND {column} IS NOT NULL
    GROUP BY {column}, outcome_type
), groups AS (
    SELECT id, sum(n) AS total, array_agg(outcome_type) AS outcomes, array_agg(n) AS counts
    FROM counted
    GROUP BY id
), page AS (
    SELECT * FROM groups
    ORDER BY total DESC, id COLLATE "C"
    LIMIT %(limit)s OFFSET %(offset)s
)
SELECT (SELECT count(*) FROM groups), id, outcomes, counts, NULL
FROM (SELECT) AS always LEFT JOIN page ON true
ORDER BY page.total DESC, id COLLATE "C"
