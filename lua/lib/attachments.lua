-- Which files a mail may bring: found by the endings of their names, and taken out or refused.
--
--   local attachments = require "attachments"
--   local found = attachments.find(mail, attachments.PROGRAMS)      {{ part = ..., name = "tool.exe" }, ...}
--   local names = attachments.remove(mail, { "exe", "scr" }, "A program was removed here.")
--
-- Mail programs disagree about which of several names counts, so each of them is looked at, and so is what Windows makes
-- of it: "tool.exe. ." is saved as tool.exe. What is inside of an archive is not looked at; that is a scanner's work.
local attachments = {}

--- Endings of what runs when it is opened, on one system or another.
attachments.PROGRAMS = {}
for ending in ([[ade adp app appx bas bat chm cmd com cpl dll dmg exe gadget hlp hta inf ins iso isp jar js jse lnk mde
  mdb msc msi msix msp mst ocx pif ps1 psm1 reg scf scr sct shb shs sys url vb vbe vbs vxd wsc wsf wsh xll]]):gmatch("%S+")
do
  attachments.PROGRAMS[#attachments.PROGRAMS + 1] = ending
end

local function ending_of(name)
  return name:lower():gsub("[%s.]+$", ""):match("%.([^.]+)$")
end

--- The parts with a file name that ends so: a list of { part = part, name = name }.
function attachments.find(mail, endings)
  local wanted, found = {}, {}
  for _, ending in ipairs(endings) do
    wanted[ending:lower():gsub("^%.", "")] = true
  end
  for part in mail:parts() do
    for _, name in ipairs(part.filenames) do
      if wanted[ending_of(name)] then
        found[#found + 1] = { part = part, name = name }
        break
      end
    end
  end
  return found
end

--- Put a text in the place of each of them; the names of what is gone.
function attachments.remove(mail, endings, text)
  local names = {}
  for n, one in ipairs(attachments.find(mail, endings)) do
    one.part:replace("text/plain", text .. "\n\n" .. one.name .. "\n")
    names[n] = one.name
  end
  return names
end

return attachments
