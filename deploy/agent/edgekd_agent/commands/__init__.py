"""The agent's commands: each takes a device and options, and returns what is printed."""
