import xml.etree.ElementTree as ElementTree

from rl_data.histogram import as_svg, as_text, histogram_of


def test_bins_are_round_and_the_few_longest_rows_share_the_last():
    histogram = histogram_of([0, 1, 9, 10, 11, 59] * 100 + [5000])
    assert (histogram.bin_width, histogram.end) == (2, 60)
    assert histogram.counts[:6] == (200, 0, 0, 0, 100, 200)
    assert histogram.counts[29] == 100
    assert histogram.num_longer == 1
    assert sum(histogram.counts) + histogram.num_longer == 601


def test_equal_lengths_are_one_bar():
    histogram = histogram_of([7] * 5)
    assert (histogram.bin_width, histogram.counts, histogram.num_longer) == (1, (0,) * 7 + (5,), 0)
    assert histogram_of([0]).counts == (1,)


def test_the_text_has_a_line_for_each_bin():
    lines = as_text(histogram_of([0, 0, 2] * 50 + [9]), width=10).splitlines()
    assert [line.split() for line in lines] == [
        ["0-", "100", "##########"],
        ["1-", "0"],
        ["2-", "50", "#####"],
        [">=3", "1", "#"],
    ]


def test_the_picture_is_svg_with_a_bar_for_each_bin():
    picture = as_svg(histogram_of([0, 0, 2] * 50 + [9]), title="a < b", unit="tokens")
    root = ElementTree.fromstring(picture)
    space = "{http://www.w3.org/2000/svg}"
    bars = root.findall(f"{space}rect")[1:]
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert heights == [300.0, 0.0, 150.0, 3.0]
    assert [bar.findtext(f"{space}title") for bar in bars][-1] == "3 and more tokens: 1 rows"
    assert "a < b" in [text.text for text in root.findall(f"{space}text")]
