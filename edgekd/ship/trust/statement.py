"""Where a bundle came from, as an in-toto Statement: stored and signed as one more target beside the bundle."""

from __future__ import annotations

from edgekd_agent import MANIFEST_NAME, Manifest, strict

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:edgekd:distillation:v1"


def statement_target(bundle_sha256: str) -> str:
    """Return the TUF target of the statement about a bundle."""
    return f"statements/{bundle_sha256}/statement.json"


def statement_bytes(manifest: Manifest, bundle_sha256: str) -> bytes:
    """Return the statement about a bundle in canonical JSON.

    Its subjects are `bundle.json` and every file of the bundle; its predicate is the recipe, the data, the artefacts
    the model was made from, and its figures.

    Args:
        manifest: The bundle's manifest.
        bundle_sha256: Digest of its `bundle.json`.
    """
    subjects = [(MANIFEST_NAME, bundle_sha256), *((item.path, item.sha256) for item in manifest.artifacts)]
    made = manifest.provenance
    return strict.canonical(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "name": manifest.name,
                "version": manifest.version,
                "created": manifest.created,
                "madeBy": made.made_by,
                "recipe": {"sha256": made.recipe_sha256},
                "data": {"sha256": made.data_sha256},
                "parents": [{"sha256": digest} for digest in made.parents],
                "metrics": dict(made.metrics),
            },
        }
    )
