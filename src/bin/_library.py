"""Puts ``src/`` on the path, so that the scripts run from anywhere without being installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
