-- Publishes a version of the tenant's catalog, unless a higher one is published. ARGV: 1 '' (as in every
-- script, the generation), 2 version. Returns {the published version}.
local key = base .. 'catalog'
local published = tonumber(redis.call('GET', key) or 0)
local version = math.max(published, tonumber(ARGV[2]))
if version > published then redis.call('SET', key, string.format('%.0f', version)) end
return {version}
