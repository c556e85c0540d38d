"""Methods: one paper, one file, one factory; found by name, by entry point, or as module:factory."""

from fedkd.methods.cmi import cmi
from fedkd.methods.co_boosting import co_boosting
from fedkd.methods.cudfkd import cudfkd
from fedkd.methods.dafl import dafl
from fedkd.methods.ddad import ddad
from fedkd.methods.deepinversion import deepinversion
from fedkd.methods.dense import dense
from fedkd.methods.dfad import dfad
from fedkd.methods.dfme import dfme
from fedkd.methods.dfq import dfq
from fedkd.methods.dip_kd import dip_kd
from fedkd.methods.disguide import disguide
from fedkd.methods.fast_dfkd import fast_dfkd
from fedkd.methods.hidfd import hidfd
from fedkd.methods.ideal import ideal
from fedkd.methods.method import Method, Share
from fedkd.methods.pre_dfkd import pre_dfkd
from fedkd.methods.rdskd import rdskd
from fedkd.methods.registry import METHODS, factory_of, known_methods, make, ways
from fedkd.methods.ta_dfkd import ta_dfkd
from fedkd.methods.zskd import zskd
from fedkd.methods.zskt import zskt

PAPERS = (
    *(cudfkd, dafl, zskt, dfad, dfme, ta_dfkd, rdskd, dip_kd, deepinversion, dfq),
    *(ddad, ideal, disguide, pre_dfkd, fast_dfkd, cmi, hidfd, dense, co_boosting, zskd),
)
"""Every factory of ours, in the order in which `fedkd methods` lists them."""
METHODS.update({factory.__name__: factory for factory in PAPERS})

__all__ = [
    "METHODS",
    "Method",
    "Share",
    "factory_of",
    "known_methods",
    "make",
    "ways",
    *(factory.__name__ for factory in PAPERS),
]
