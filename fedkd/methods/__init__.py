"""Methods: one paper, one file, one factory; by name, by entry point, or as module:factory."""

from fedkd.methods.cmi import cmi as cmi
from fedkd.methods.co_boosting import co_boosting as co_boosting
from fedkd.methods.cudfkd import cudfkd as cudfkd
from fedkd.methods.dafl import dafl as dafl
from fedkd.methods.ddad import ddad as ddad
from fedkd.methods.deepinversion import deepinversion as deepinversion
from fedkd.methods.dense import dense as dense
from fedkd.methods.df_gr_dt_id import df_gr_dt_id as df_gr_dt_id
from fedkd.methods.dfad import dfad as dfad
from fedkd.methods.dfkd_regression import dfkd_regression as dfkd_regression
from fedkd.methods.dfme import dfme as dfme
from fedkd.methods.dfq import dfq as dfq
from fedkd.methods.dip_kd import dip_kd as dip_kd
from fedkd.methods.disguide import disguide as disguide
from fedkd.methods.embed_distill import embed_distill as embed_distill
from fedkd.methods.fast_dfkd import fast_dfkd as fast_dfkd
from fedkd.methods.feddf import feddf as feddf
from fedkd.methods.gas import gas as gas
from fedkd.methods.group_stack import group_stack as group_stack
from fedkd.methods.hidfd import hidfd as hidfd
from fedkd.methods.ideal import ideal as ideal
from fedkd.methods.kd3 import kd3 as kd3
from fedkd.methods.method import Method as Method
from fedkd.methods.method import Share as Share
from fedkd.methods.odsd import odsd as odsd
from fedkd.methods.pre_dfkd import pre_dfkd as pre_dfkd
from fedkd.methods.rdskd import rdskd as rdskd
from fedkd.methods.registry import METHODS as METHODS
from fedkd.methods.registry import factory_of as factory_of
from fedkd.methods.registry import known_methods as known_methods
from fedkd.methods.registry import make as make
from fedkd.methods.registry import ways as ways
from fedkd.methods.ta_dfkd import ta_dfkd as ta_dfkd
from fedkd.methods.tst import tst as tst
from fedkd.methods.zskd import zskd as zskd
from fedkd.methods.zskt import zskt as zskt

PAPERS = (
    *(cudfkd, dafl, zskt, dfad, dfme, ta_dfkd, rdskd, dip_kd, deepinversion, dfq),
    *(ddad, ideal, disguide, pre_dfkd, fast_dfkd, cmi, hidfd, dense, co_boosting, zskd),
    *(dfkd_regression, tst, feddf, odsd, kd3, group_stack, embed_distill, gas, df_gr_dt_id),
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
