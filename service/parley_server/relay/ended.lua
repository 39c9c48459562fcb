-- A reply has ended, and all of its log that there is to be is here: closes it, keeps it for a while, tells everybody.
--
-- KEYS: the reply. ARGV: the epoch in which it ended, time to keep, the fence that nobody passes.
local writer = redis.call('HGET', KEYS[1], 'writer')
local last = 0
if writer then
  local stream = KEYS[1] .. ':log:' .. writer
  last = redis.call('XLEN', stream)
  redis.call('PEXPIRE', stream, ARGV[2])
end
redis.call('HSET', KEYS[1], 'fence', ARGV[3], 'ended', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PUBLISH', KEYS[1], cmsgpack.pack({tonumber(ARGV[1]), last}))
return last
