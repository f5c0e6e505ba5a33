"""`python -m edgekd.report > edgekd/report/schema.json` publishes the schema again after a change of the models."""

import json
import sys

from edgekd.report.schema import schema_document

sys.stdout.write(json.dumps(schema_document(), indent=2) + "\n")
