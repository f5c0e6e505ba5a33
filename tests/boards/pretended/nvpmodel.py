import json
from pathlib import Path

print(json.loads((Path(BOARD) / "behaviour.json").read_text()).get("mode", "NV Power Mode: MAXN\n0"))
