-- Appends consecutive entries of a reply's log and publishes them. Entries that the stream has are skipped, so a
-- repeated call adds nothing. If the entries would leave a gap, none is added; the answer shows where to continue.
--
-- KEYS: the reply, the stream of this epoch. ARGV: {epoch, number of the first entry, entries} in msgpack; TTL in ms.
-- Answer: the last number of the stream (-1: the log is closed to this epoch), whether a cancel was requested.
--
-- A stream has every number from 1 on, so its length is its last number.
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
