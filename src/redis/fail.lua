-- A wrong credential of one address, in a minute that begins with the first one.
-- KEYS: how many there were; whether somebody was told that they are too many.
-- ARGV: the limit.
-- Returns how many there are with this one, for how long they count (milliseconds), and whether it is the first beyond
-- the limit since the limit was kept for a whole minute.
local count, left = redis.call('INCR', KEYS[1]), redis.call('PTTL', KEYS[1])
if left <= 0 then
  left = 60000
  redis.call('PEXPIRE', KEYS[1], left)
end
local first = 0
if count > tonumber(ARGV[1]) then
  if redis.call('SET', KEYS[2], 1, 'NX') then first = 1 end
  redis.call('PEXPIRE', KEYS[2], left + 60000)
end
return {count, left, first}
