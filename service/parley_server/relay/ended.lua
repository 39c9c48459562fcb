-- Closes the log of a reply that has ended, sets its retention, and publishes the end. Called after the last append.
--
-- KEYS: the reply. ARGV: the epoch in which it ended, retention in ms, a fence above every epoch.
-- Answer: the last number of the stream.
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
