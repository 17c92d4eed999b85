-- A request against rate limits (GCRA) and a quota: counted in all of them, or in none if one has no room.
-- KEYS: one for each rate, then that of the quota, if there is one.
-- ARGV: how many rates; for each its interval, its burst and how far the caller knows it to be ahead (microseconds);
--       of the quota its requests, how many of them the caller knows to be used, and when its period ends (milliseconds).
-- Returns which had no room (0: all had), for each rate how far it is ahead, and how much of the quota is used.
local rates = tonumber(ARGV[1])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local refused, ahead = 0, {}
for i = 1, rates do
  local interval, burst, known = tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
  local stored = tonumber(redis.call('GET', KEYS[i]) or 0) - now
  -- What is further ahead than the burst is from before a clock was set back.
  ahead[i] = math.min(math.max(stored, known, 0), burst)
  if refused == 0 and ahead[i] + interval > burst then refused = i end
end
local used = 0
if #KEYS > rates then
  local at = 3 * rates + 2
  used = math.max(tonumber(redis.call('GET', KEYS[rates + 1]) or 0), tonumber(ARGV[at + 1]))
  if refused == 0 and used >= tonumber(ARGV[at]) then refused = rates + 1 end
end
if refused == 0 then
  for i = 1, rates do
    ahead[i] = ahead[i] + tonumber(ARGV[3 * i - 1])
    redis.call('SET', KEYS[i], string.format('%.0f', now + ahead[i]), 'PX', math.ceil(ahead[i] / 1000) + 1)
  end
  if #KEYS > rates then
    used = used + 1
    redis.call('SET', KEYS[rates + 1], string.format('%.0f', used), 'PX', math.floor(tonumber(ARGV[3 * rates + 4])) + 1000)
  end
end
table.insert(ahead, 1, refused)
table.insert(ahead, used)
return ahead
