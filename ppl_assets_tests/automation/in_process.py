"""The code location with every step in the process of its run, so that a test need not wait for imports."""

import dagster as dg

from ppl_assets.definitions import build_defs

defs = build_defs(executor=dg.in_process_executor)
