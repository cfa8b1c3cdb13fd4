"""Exit statuses of the commands and of a worker's process."""

#: A generated file is stale (`--check`).
STALE = 1
#: The command or the worker cannot run: invalid settings, an unusable file, a port in use, no database.
CANNOT_RUN = 2
#: The model failed while serving: EX_SOFTWARE of sysexits.h. A restart may help.
MODEL_FAILED = 70
