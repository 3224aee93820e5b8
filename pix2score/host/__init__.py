"""The machine and the process that a job runs in: cores, memory, temporary folders, being told to end."""
