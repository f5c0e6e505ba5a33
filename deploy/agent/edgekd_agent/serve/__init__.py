"""A small inference server: what applications and the confirmation of a new release have to talk to."""
