"""A guarantee in words and as JSON."""

import json
import math

from accountants import Guarantee


def test_the_sentence_rounds_epsilon_up() -> None:
    answer = Guarantee(1.0001, 1e-5, "class", "replace", "tight", True, 1)
    assert "epsilon = 1.001" in str(answer)


def test_an_infinite_epsilon_is_valid_json_that_reads_back() -> None:
    answer = Guarantee(math.inf, 1e-5, "class", "replace", "tight", True, 1)
    fields = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    assert float(fields["epsilon"]) == math.inf
    assert "epsilon = inf" in str(answer)
    assert "caveats" not in fields
