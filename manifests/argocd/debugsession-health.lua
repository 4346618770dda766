-- Health of a DebugSession. It uses table access only, no function of Lua's library.
local health = { status = "Progressing", message = "Sandglass has not seen it yet" }
local status = obj.status
if status == nil or status.conditions == nil then
  return health
end

local ready, stalled
local index = 1
local condition = status.conditions[index]
while condition ~= nil do
  if condition.type == "Ready" then
    ready = condition
  elseif condition.type == "Stalled" then
    stalled = condition
  end
  index = index + 1
  condition = status.conditions[index]
end

-- Once ended, always ended: what is changed afterwards is not waited for.
local ended = status.endedAt ~= nil
local generation = obj.metadata ~= nil and obj.metadata.generation or nil
if not ended and generation ~= status.observedGeneration then
  health.message = "Sandglass has not seen the last change yet"
  return health
end

if stalled ~= nil and stalled.status == "True" then
  health.status = "Degraded"
  health.message = (stalled.reason or "Stalled") .. ": " .. (stalled.message or "a human is needed")
  return health
end
if ready == nil then
  return health
end

local words = (ready.reason or "no reason") .. ": " .. (ready.message or "no message")
-- Ready stays True after the end: a session that is over is what was asked for.
if ready.status ~= "True" then
  health.message = words
elseif ended then
  health.status = "Healthy"
  health.message = "ended, " .. words
else
  health.status = "Healthy"
  health.message = words
  if status.expiresAt ~= nil then
    health.message = "open until " .. status.expiresAt
    if status.connection ~= nil and status.connection.command ~= nil then
      health.message = health.message .. ": " .. status.connection.command
    end
  end
end
return health
