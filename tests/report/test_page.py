"""The parts that pages of runs are made of."""
import base64
import re

import numpy as np
import pytest

from unequal.report import page

pytest.importorskip("matplotlib")


def test_tags_escape():
    assert page.tag("p", "a<b", page.Html("<i>"), 3, class_="x\"y") == (
        '<p class="x&quot;y">a&lt;b<i>3</p>')
    assert page.tag("meta", http_equiv="a", name="b") == '<meta http-equiv="a" name="b">'


def test_pictures_that_are_no_jpeg_become_one():
    pixels = np.full((8, 8, 3), 200, np.uint8)
    assert page.picture(pixels, "x", "y").startswith('<img src="data:image/jpeg;base64,/9j/')


def test_smoothing_follows_a_short_curve():
    # (0.9 * 0.1 * 3.25 + 0.1 * 2.5) / (0.9 * 0.1 + 0.1)
    np.testing.assert_allclose(page.smoothed([3.25, 2.5], 0.9), [3.25, 2.855263], atol=1e-6)
    assert page.smoothed([3.25, 2.5]) == [3.25, 2.5] and page.smoothed([]) == []
    noisy = np.arange(200) + np.random.RandomState(0).randn(200)
    assert page.smoothed(noisy) == page.smoothed(noisy, 0.9)
    # A mean of 20 values lags by half of a tenth, not by ten values.
    assert page.smoothed(range(20))[-1] == pytest.approx(18, abs=0.1)


def test_a_table_of_many_columns_names_its_cells():
    """On a phone they stand below each other."""
    text = page.table(["a", "b_c"], [(page.tag("td", 1), page.tag("td", 2))])
    assert "data-name" not in text and "<th>b_<wbr>c</th>" in text
    names = list("abcdef") + ["<g>"]
    text = page.table(names, [[page.tag("td", place) for place in range(7)]])
    assert text.count("data-name=") == 7 and '<td data-name="&lt;g&gt;">6</td>' in text
    csv, = re.findall('href="data:text/csv;base64,([^"]*)"', text)
    assert base64.b64decode(csv).decode() == "a,b,c,d,e,f,<g>\n0,1,2,3,4,5,6\n"


def test_after_all_colours_come_dashes():
    text = page.legend(["a"] * (page.LINES + 1))
    assert text.count('class="line0 dash0"') == text.count('class="line0 dash1"') == 1


def test_thinned_keeps_the_mean():
    x, y = np.arange(1000), np.random.RandomState(0).rand(1000)
    short_x, short_y = page.thinned(x, y, 100)
    assert len(short_x) == 100
    assert short_y[3] == pytest.approx(y[30:40].mean()) and short_x[3] == pytest.approx(34.5)
    assert page.thinned([1], [2]) == ([1], [2])
