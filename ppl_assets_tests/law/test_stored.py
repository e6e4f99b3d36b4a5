import warnings

import numpy as np

from ppl_assets.law.stored import StoredLaw


def test_a_subset_without_spread_has_no_prediction_and_no_warning():
    law = StoredLaw("quadratic", "anchored", "deviation", 3.0, (0.1, 0.2, 0.3, 0.01, 0.02, 0.03, 0.5), 6.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = law.predict([100.0, 100.0], [0.0, 50.0], 1000.0)
    assert np.isnan(loss[0])
    assert 3.0 < loss[1] < 6.0
