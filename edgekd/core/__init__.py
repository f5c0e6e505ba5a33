"""Artefact nouns, errors, configuration, digests, atomic files: what every other package stands on."""
