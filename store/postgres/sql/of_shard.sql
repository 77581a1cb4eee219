-- Condition on the rows of one shard: the same hash as in store/shards.py.
mod(
    ('x' || encode(substr(sha256(convert_to(customer_id, 'UTF8')), 1, 3), 'hex'))::bit(24)::integer,
    %(shards)s::integer
) = %(shard)s::integer
