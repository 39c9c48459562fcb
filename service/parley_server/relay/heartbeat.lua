-- Extends the lifetime of running replies, and returns their state to their owner.
--
-- KEYS: for each reply, the reply and the stream of its epoch. ARGV: TTL in ms, then each reply's epoch.
-- Answer: the time, then for each reply: the last number of its stream (-1: closed to this epoch), whether a cancel was
-- requested, and when a reader on another replica was last reported (0: never). Times: this server's clock, in ms.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answer = {now}
for i = 2, #ARGV do
  local reply, stream = KEYS[2 * i - 3], KEYS[2 * i - 2]
  local known = redis.call('HMGET', reply, 'fence', 'cancel', 'since', 'seen')
  local last = -1
  if not known[1] or tonumber(known[1]) <= tonumber(ARGV[i]) then
    last = redis.call('XLEN', stream)
    -- A write that needs memory: it fails in the same cases in which seen.lua cannot report readers.
    redis.call('HSET', reply, 'owner', now)
    if not known[3] then
      redis.call('HSET', reply, 'since', now)
    end
    redis.call('PEXPIRE', reply, ARGV[1])
    redis.call('PEXPIRE', stream, ARGV[1])
  end
  answer[#answer + 1] = last
  answer[#answer + 1] = known[2] and 1 or 0
  answer[#answer + 1] = tonumber(known[4] or 0)
end
return answer
