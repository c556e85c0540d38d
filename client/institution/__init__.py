"""An institution: its vault, policy, ledger and release gate in one object, and how one is built.

Built from an experiment it is simulated; built from an owner's configuration it serves.
"""

from fedkd.client.institution.institution import *  # noqa
from fedkd.client.institution.institution import Institution, owned, simulated, examined, holding, policy, institution_name
