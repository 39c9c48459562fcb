-- Appends a stretch of a reply's log and publishes it. What the stream has already is skipped, so a repeated call adds
-- nothing; where the stretch begins beyond the stream's end, nothing is added, and the answer says where to begin.
--
-- KEYS: the reply, the stream of this epoch. ARGV: {epoch, number of the first entry, entries} in msgpack, time to live.
-- Answer: the last number of the stream (-1: the log is closed to this epoch), whether a cancel is wished.
--
-- A stream is dense from number 1 on, so its length is its last number.
local message = cmsgpack.unpack(ARGV[1])
local epoch, first, entries = message[1], message[2], message[3]
local known = redis.call('HMGET', KEYS[1], 'fence', 'writer', 'cancel', 'since')
if known[1] and tonumber(known[1]) > epoch then
  return {-1, 0}
end
local cancel = known[3] and 1 or 0
local last = redis.call('XLEN', KEYS[2])
local new = first + #entries - 1
if first > last + 1 or new <= last then
  return {last, cancel}
end
for number = last + 1, new do
  redis.call('XADD', KEYS[2], number .. '-0', 'e', entries[number - first + 1])
end
if last == 0 then
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
if tonumber(known[2]) ~= epoch then
  redis.call('HSET', KEYS[1], 'fence', epoch, 'writer', epoch)
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
if not known[4] then
  local time = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'since', time[1] * 1000 + math.floor(time[2] / 1000))
end
redis.call('PUBLISH', KEYS[1], ARGV[1])
return {new, cancel}
