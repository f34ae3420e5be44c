-- Environment module of modelhub-hpc for Lmod:  module use FOLDER/modulefiles;  module load modelhub-hpc
--
-- It adds the bin folder of an installation to PATH (python3 -m venv PREFIX; PREFIX/bin/pip install CHECKOUT).
-- Which one: MODELHUB_HPC_PREFIX, as the environment has it or as the next line sets it; else the nearest folder above
-- this file with bin/mh-hpc in it. So it needs no change where it lies in PREFIX (in its site-packages, as it comes, or
-- copied to PREFIX/modulefiles/modelhub-hpc/), and one line where it is copied to a folder for all modules.
local prefix = os.getenv("MODELHUB_HPC_PREFIX") -- or "/opt/modelhub-hpc/0.1.0"

local function above(path)
    path = path:match("^(.*)/[^/]+$")
    while path and path ~= "" do
        if isFile(pathJoin(path, "bin", "mh-hpc")) then
            return path
        end
        path = path:match("^(.*)/[^/]+$")
    end
end

whatis("Name: modelhub-hpc")
whatis("Version: 0.1.0")
whatis("Description: runs published deep-learning models over whole studies, without root")
help([[
mh-hpc runs published deep-learning models over whole studies on this cluster: without root, without Docker, and with
a record of what was run.

  mh-hpc doctor                              what is missing here
  mh-hpc submit --model MODEL --inputs DIR   a whole study
  mh-hpc --help
]])

prefix = prefix or above(myFileName())
if prefix then
    -- Of an environment of its own this brings python and pip, too: nothing but mh-hpc should be installed there.
    prepend_path("PATH", pathJoin(prefix, "bin"))
elseif mode() == "load" then
    LmodError("modelhub-hpc: no folder above ", myFileName(), " has bin/mh-hpc.\n",
              "Set MODELHUB_HPC_PREFIX to the installation, here or at the top of that file.")
end

-- Images that all users share:
-- setenv("MH_HPC_LIBRARY_DIRS", "/opt/mh-hpc/images")

-- Apptainer may be a module or part of the system. One that is loaded already stays when this module is unloaded.
if not isloaded("apptainer") then
    try_load("apptainer")
end
