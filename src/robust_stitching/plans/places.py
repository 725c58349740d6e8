"""Where things lie in the folder of a sweep.

::

    <out>/<name>/plan.toml                  the sweep
                 plans/<kind>/<unit>.json   the plan of each unit, and what the sweep calls it
                 networks/<key>/            a trained network
                 units/<unit>/              the results of a pair by one choice of options
                 logs/<unit>.log            what its process told
"""

PLAN, PLANS, NETWORKS, UNITS, LOGS = "plan.toml", "plans", "networks", "units", "logs"
MODEL = "model.pt"
RECORDS = "json/[!.]*.json"
"""The results of a unit, below its folder."""
