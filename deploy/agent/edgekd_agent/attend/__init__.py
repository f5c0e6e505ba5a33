"""The agent's one door for the operator's login: a Unix socket, and a short list of what may be asked there."""
