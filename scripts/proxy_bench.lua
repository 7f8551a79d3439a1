-- Requests of `scripts/proxy_bench.py` for wrk. KIND: `short`, `long` (8 KB, 50 shared prefixes, 1,000 distinct ends),
-- `unique` (8 KB, no two alike, counted from FIRST). STREAM=1: answers are streamed.
local kind = os.getenv("KIND") or "short"
local tail = os.getenv("STREAM") == "1" and ',"max_tokens":16,"stream":true}' or ',"max_tokens":8}'
local first = tonumber(os.getenv("FIRST") or "0")
local headers = { ["Content-Type"] = "application/json" }
local bodies, sent = {}, 0

local function words(seed)
  math.randomseed(seed)
  local list = {}
  for index = 1, 1350 do list[index] = string.format("w%04d", math.random(0, 9999)) end
  return table.concat(list, " ")
end

local function post(prompt)
  return wrk.format("POST", "/v1/completions", headers, '{"model":"fast","prompt":"' .. prompt .. '"' .. tail)
end

function init()
  local shared = {}
  for group = 1, 50 do shared[group] = kind ~= "short" and words(group) or "Tell me" end
  for index = 1, 1000 do
    bodies[index] = kind == "unique" and shared[index % 50 + 1]
      or post(shared[index % 50 + 1] .. " a short story about number " .. index)
  end
end

function request()
  sent = sent + 1
  local body = bodies[sent % 1000 + 1]
  -- What differs stands first, so that no block is shared.
  return kind == "unique" and post("Number " .. first + sent .. " " .. body) or body
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.status + errors.connect + errors.read + errors.write + errors.timeout
  print(string.format('RESULT {"requests":%d,"us":%d,"p50":%d,"p99":%d,"failed":%d}', summary.requests,
    summary.duration, latency:percentile(50), latency:percentile(99), failed))
end
