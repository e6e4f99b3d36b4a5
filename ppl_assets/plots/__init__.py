from ppl_assets.subset.plots import *  # noqa
