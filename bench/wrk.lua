-- What bench/wrk.py has wrk send: {n} becomes a number that no other request has. The result is one line of JSON.
local body, head, path = os.getenv("WRK_BODY"), {}, os.getenv("WRK_PATH")
for name, value in os.getenv("WRK_HEADERS"):gmatch("([^\n]-): ([^\n]*)") do head[name] = value end
local first, sent = os.getenv("WRK_FIRST"), 0

function request()
  sent = sent + 1
  local number = first .. sent
  local function filled(text) return (text:gsub("{n}", number)) end
  local headers = {}
  for name, value in pairs(head) do headers[name] = filled(value) end
  return wrk.format(os.getenv("WRK_METHOD"), filled(path), headers, body ~= "" and filled(body) or nil)
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "took_s": %f, "p50_ms": %f, "p99_ms": %f, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
