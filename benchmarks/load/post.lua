-- wrk -s post.lua URL -- BODIES: posts the lines of a file in turn, and prints one line of numbers at the end.
local bodies, at = {}, 0

function init(args)
  for line in io.lines(args[1]) do bodies[#bodies + 1] = wrk.format("POST", nil, {["Content-Type"] = "application/json"}, line) end
end

function request()
  at = at % #bodies + 1
  return bodies[at]
end

function done(summary, latency, requests)
  local failed = summary.errors
  print(string.format("RESULT %d %d %d %.1f %.1f", summary.requests, summary.duration,
    failed.status + failed.connect + failed.read + failed.write + failed.timeout,
    latency:percentile(50), latency:percentile(99)))
end
