-- Decides a batch of checks in one step, by the server's clock; the arithmetic is that of gcra.py.
-- KEYS: the distinct buckets. ARGV: for each bucket its limit and a floor (what the asking process knows to be in it),
-- then for each check its cost, how many buckets it has, and their positions in KEYS.
-- Answers for each check 1 or 0 and then the level of each of its buckets, after the check when 1, else as found.
local REQUEST = 60000000
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local levels, limits, changed = {}, {}, {}
for i, key in ipairs(KEYS) do
  limits[i] = tonumber(ARGV[2 * i - 1])
  levels[i] = 0
  local stored = redis.call('GET', key)
  if stored then
    local level, touched = string.match(stored, '^(%d+) (%d+)$')
    level = math.min(tonumber(level), limits[i] * REQUEST)
    levels[i] = math.max(0, level - math.max(0, now - tonumber(touched)) * limits[i])
  end
  levels[i] = math.max(levels[i], math.min(tonumber(ARGV[2 * i]), limits[i] * REQUEST))
end

local answer = {}
local position = 2 * #KEYS + 1
while position <= #ARGV do
  local cost = tonumber(ARGV[position]) * REQUEST
  local count = tonumber(ARGV[position + 1])
  local allowed = true
  for j = 1, count do
    local i = tonumber(ARGV[position + 1 + j])
    allowed = allowed and levels[i] + cost <= limits[i] * REQUEST
  end
  answer[#answer + 1] = allowed and 1 or 0
  for j = 1, count do
    local i = tonumber(ARGV[position + 1 + j])
    if allowed then
      levels[i] = levels[i] + cost
      changed[i] = true
    end
    answer[#answer + 1] = levels[i]
  end
  position = position + 2 + count
end

-- A minute after its last request a bucket is empty, so it may be forgotten.
for i, key in ipairs(KEYS) do
  if changed[i] then
    redis.call('SET', key, string.format('%.0f %.0f', levels[i], now), 'EX', 61)
  end
end
return answer
