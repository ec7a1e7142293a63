import contextlib
import threading
import time

import numpy as np
import pytest
import torch
import xxhash

from rl_weights import Publisher, SyncError, bucket_checksum, checksum
from rl_weights.buckets import plan_buckets
from rl_weights.errors import CheckpointError
from rl_weights.testing import InMemorySink, InMemorySource, check_tensor_source, check_weight_sink, small_tensors


def same(sink, tensors):
    return list(sink.tensors) == list(tensors) and all(
        torch.equal(sink.tensors[name], tensors[name]) for name in tensors
    )


@pytest.mark.parametrize("bucket_bytes", [1, 16, 100, 10_000])
def test_every_sink_gets_every_tensor_at_any_bucket_size(bucket_bytes):
    tensors = small_tensors()
    sinks = [InMemorySink(f"engine {i}") for i in range(3)]
    report = Publisher(InMemorySource(tensors), sinks, bucket_bytes=bucket_bytes).publish(5)
    assert all(same(sink, tensors) and sink.weight_version() == 5 for sink in sinks)
    assert report.num_tensors == 5
    assert report.num_bytes == sum(tensor.nbytes for tensor in tensors.values()) == 195
    assert report.num_buckets == {1: 5, 16: 3, 100: 2, 10_000: 1}[bucket_bytes]
    assert 0 < report.total_s < 10


def test_a_later_publish_gives_the_later_weights_and_reuses_the_buffers():
    source = InMemorySource(small_tensors())
    seen = []

    class Watching(InMemorySink):
        def load_bucket(self, specs, buffer, checksum):
            seen.append(buffer.data_ptr())
            super().load_bucket(specs, buffer, checksum)

    sink = Watching()
    publisher = Publisher(source, [sink], bucket_bytes=60)
    publisher.publish(1)
    for tensor in source.tensors.values():
        tensor.copy_(tensor + 1) if tensor.is_floating_point() else tensor.logical_not_()
    publisher.publish(2)
    assert same(sink, source.tensors)
    assert sink.weight_version() == 2
    assert len(set(seen)) == 2
    assert len(seen) > 4


def test_verifying_compares_every_tensor_that_a_sink_holds():
    class Losing(InMemorySink):
        def commit_update(self, version, num_tensors):
            super().commit_update(version, num_tensors)
            self.tensors["norm"] = self.tensors["norm"] + 1

    tensors = small_tensors()
    good, bad = InMemorySink("good"), Losing("bad")
    report = Publisher(InMemorySource(tensors), [good], bucket_bytes=60).publish(1, verify=True)
    assert report.verify_s > 0
    with pytest.raises(SyncError, match=r"1 of 2 sinks failed: bad: .*1 of 5 tensors are not the source's: norm"):
        Publisher(InMemorySource(tensors), [good, bad], bucket_bytes=1000).publish(2, verify=True)
    assert good.weight_version() == 2
    assert bad.weight_version() is None, "it serves weights that are not the source's"


def test_a_sink_that_verifying_finds_wrong_and_that_does_not_stop_is_named():
    class Obstinate(InMemorySink):
        num_begun = 0

        def begin_update(self, version):
            self.num_begun += 1
            if self.num_begun == 2:
                raise ConnectionError("gone")
            super().begin_update(version)

        def commit_update(self, version, num_tensors):
            super().commit_update(version, num_tensors)
            self.tensors["norm"] = self.tensors["norm"] + 1

    with pytest.raises(SyncError, match=r"not the source's: norm; and it may still serve them: .*gone"):
        Publisher(InMemorySource(small_tensors()), [Obstinate()]).publish(1, verify=True)


@pytest.mark.parametrize("version", [-1, "x", 1.0, None, True])
def test_what_is_no_version_is_refused_before_a_sink_is_called(version):
    with pytest.raises(SyncError, match=rf"^publish: version: expected an integer >= 0, got {version!r}$"):
        Publisher(InMemorySource(small_tensors()), [InMemorySink(fail_at="begin_update")]).publish(version)


def test_a_version_may_come_again_and_a_lower_one_may_follow():
    publisher = Publisher(InMemorySource(small_tensors()), [sink := InMemorySink()])
    for version in (5, 5, 4, 0):
        publisher.publish(version, verify=True)
        assert sink.weight_version() == version


def test_every_rank_goes_through_the_tensors_once_also_where_a_sink_fails_and_weights_are_verified():
    class Counting(InMemorySource):
        num_iterations = 0

        def iter_tensors(self):
            yield from super().iter_tensors()
            self.num_iterations += 1

    writer, other = Counting(small_tensors()), Counting(small_tensors(), is_writer=False)
    with pytest.raises(SyncError, match="commit_update fails on purpose"):
        Publisher(writer, [InMemorySink(fail_at="commit_update")]).publish(1, verify=True)
    Publisher(other, []).publish(1, verify=True)
    assert writer.num_iterations == other.num_iterations == 1


def test_a_sink_that_cannot_compare_is_named_when_weights_are_verified():
    class Plain:
        def __init__(self):
            self.sink = InMemorySink()
            self.begin_update, self.load_bucket = self.sink.begin_update, self.sink.load_bucket
            self.commit_update, self.weight_version = self.sink.commit_update, self.sink.weight_version

    plain = Plain()
    with pytest.raises(SyncError, match=r"sink 0 \(Plain\).*Plain has no tensor_checksums"):
        Publisher(InMemorySource(small_tensors()), [plain]).publish(1, verify=True)
    assert plain.weight_version() is None


def test_buckets_keep_the_order_and_a_large_tensor_has_its_own():
    specs = [("a", "float32", (2,)), ("b", "bfloat16", (4,)), ("c", "float32", (100,)), ("d", "uint8", (3,))]
    buckets = plan_buckets(specs, 16)
    assert [[name for name, _, _ in bucket.specs] for bucket in buckets] == [["a", "b"], ["c"], ["d"]]
    assert [bucket.num_bytes for bucket in buckets] == [16, 400, 3]
    with pytest.raises(CheckpointError, match=r"odd: expected one of .*got dtype 'complex64'"):
        plan_buckets([("odd", "complex64", (1,))], 16)


@pytest.mark.parametrize("call", ["begin_update", "load_bucket", "commit_update"])
def test_a_sink_that_fails_is_named_and_the_others_are_brought_to_the_version(call):
    tensors = small_tensors()
    good, bad, other = InMemorySink("good"), InMemorySink("bad", fail_at=call), InMemorySink("other")
    publisher = Publisher(InMemorySource(tensors), [good, bad, other], bucket_bytes=16)
    with pytest.raises(SyncError, match=rf"version 3: 1 of 3 sinks failed: bad: {call}.*RuntimeError") as caught:
        publisher.publish(3)
    assert isinstance(caught.value.__cause__, RuntimeError)
    for sink in (good, other):
        assert sink.weight_version() == 3
        assert same(sink, tensors)
    assert bad.weight_version() != 3
    bad.fail_at = None
    publisher.publish(4)
    assert all(sink.weight_version() == 4 and same(sink, tensors) for sink in (good, bad, other))


@pytest.mark.parametrize("call", ["begin_update", "load_bucket", "commit_update"])
def test_a_sink_that_hangs_holds_the_others_up_no_longer_than_its_deadline(call):
    tensors = small_tensors()
    good, stuck = InMemorySink("good"), InMemorySink("stuck", hang_at=call)
    publisher = Publisher(InMemorySource(tensors), [stuck, good], bucket_bytes=16, deadline_s=0.3)
    started = time.monotonic()
    with pytest.raises(SyncError, match=rf"stuck: {call}.*no answer within 0.3 s"):
        publisher.publish(1)
    assert time.monotonic() - started < 3  # 0.3 s, and room for a busy machine
    assert good.weight_version() == 1
    assert same(good, tensors)
    stuck.hang_at = None
    with pytest.raises(SyncError, match=rf"stuck: has not come back from {call}.* of an earlier publish"):
        publisher.publish(2)
    assert good.weight_version() == 2
    stuck.release.set()
    until = time.monotonic() + 20
    while stuck.weight_version() != 3 and time.monotonic() < until:
        with contextlib.suppress(SyncError):
            publisher.publish(3)
    assert stuck.weight_version() == good.weight_version() == 3
    assert same(stuck, tensors)


class SlowSink(InMemorySink):
    """Takes its time for each bucket."""

    def __init__(self, name, bucket_s):
        super().__init__(name)
        self.bucket_s = bucket_s

    def begin_update(self, version):
        super().begin_update(version)
        self.began = time.monotonic()

    def load_bucket(self, *arguments):
        time.sleep(self.bucket_s)
        super().load_bucket(*arguments)

    def commit_update(self, *arguments):
        super().commit_update(*arguments)
        self.was_without_version_s = time.monotonic() - self.began


def test_a_sink_that_is_slow_with_every_bucket_holds_the_others_up_no_longer_than_its_deadline():
    tensors = {f"w{number}": torch.ones(4) for number in range(20)}
    slow, good = SlowSink("slow", 0.1), SlowSink("good", 0.0)
    late = (
        r"1 of 2 sinks failed: slow: load_bucket \d of 20, from w\d: "
        r"no answer within 0.4 s for which other sinks waited, 0\.\d+ s of them for earlier buckets"
    )
    with pytest.raises(SyncError, match=late):
        Publisher(InMemorySource(tensors), [slow, good], bucket_bytes=16, deadline_s=0.4).publish(1)
    assert good.weight_version() == 1
    assert good.was_without_version_s < 1.2  # 0.4 s, and room for a busy machine; all of the other's calls take 2 s


def test_sinks_that_are_about_equally_slow_only_have_the_deadline_of_each_call():
    tensors = {f"w{number}": torch.ones(4) for number in range(24)}
    # One falls behind more and more, until it is a bucket behind, and both are busy nearly all the time.
    sinks = [SlowSink("one", 0.05), SlowSink("other", 0.06)]
    Publisher(InMemorySource(tensors), sinks, bucket_bytes=16, deadline_s=0.6).publish(1)
    assert all(sink.was_without_version_s > 1.2 and sink.weight_version() == 1 for sink in sinks)


def test_a_single_sink_only_has_the_deadline_of_each_call():
    tensors = {f"w{number}": torch.ones(4) for number in range(6)}
    sink = SlowSink("alone", 0.05)
    Publisher(InMemorySource(tensors), [sink], bucket_bytes=16, deadline_s=0.25).publish(1)
    assert sink.weight_version() == 1


def test_sinks_load_at_the_same_time_and_beside_the_gathering():
    both_are_loading = threading.Barrier(2, timeout=20)

    class Meeting(InMemorySink):
        def load_bucket(self, specs, buffer, checksum):
            both_are_loading.wait()
            super().load_bucket(specs, buffer, checksum)

    first_load_ended = threading.Event()

    class Source(InMemorySource):
        def iter_tensors(self):
            yield from list(super().iter_tensors())[:2]
            # Asked for the second bucket's tensors although nobody has waited for the first one's loading.
            assert not first_load_ended.is_set()
            yield from list(super().iter_tensors())[2:]
            first_load_ended.set()

    class Waiting(Meeting):
        def load_bucket(self, specs, buffer, checksum):
            super().load_bucket(specs, buffer, checksum)
            assert first_load_ended.wait(20)

    tensors = {name: torch.ones(4) for name in "abcd"}
    Publisher(Source(tensors), [Meeting("one"), Waiting("two")], bucket_bytes=32).publish(1)


def test_ranks_that_do_not_write_only_take_part_in_the_iteration():
    steps = []

    class Counting(InMemorySource):
        def iter_tensors(self):
            for item in super().iter_tensors():
                steps.append(item[0])
                yield item

    sink = InMemorySink()
    report = Publisher(Counting(small_tensors(), is_writer=False), [sink]).publish(1)
    assert steps == list(small_tensors())
    assert sink.weight_version() is None
    assert report.num_tensors == 5


def test_a_source_that_does_not_keep_to_its_specs_is_named():
    given = []

    class Renaming(InMemorySource):
        def iter_tensors(self):
            for name, tensor in self.tensors.items():
                given.append(name)
                yield name.upper(), tensor

    class Short(InMemorySource):
        def iter_tensors(self):
            return iter(list(self.tensors.items())[:-1])

    class Long(InMemorySource):
        def iter_tensors(self):
            return iter([*self.tensors.items(), ("more", torch.ones(1))])

    for source_type, message in (
        (Renaming, "specs say .'embed'.*it gave .'EMBED'"),
        (Short, "the source ended before transposed"),
        (Long, "gave more after the last of its specs"),
    ):
        sink = InMemorySink()
        with pytest.raises(SyncError, match=message):
            Publisher(source_type(small_tensors()), [sink], bucket_bytes=16).publish(1)
        assert sink.weight_version() is None
    assert given == list(small_tensors()), "the other ranks wait for this one to iterate to the end"


@pytest.mark.parametrize("num_failures", [1, 2])
def test_a_source_that_fails_leaves_no_sink_loading_and_its_first_error_is_raised(num_failures, caplog):
    class Failing(InMemorySource):
        def iter_tensors(self):
            yield "a", self.tensors["a"]
            if num_failures == 2:
                yield "x", self.tensors["b"]
            raise OSError("a rank is gone")

    class Slow(InMemorySink):
        is_loading = False

        def load_bucket(self, specs, buffer, checksum):
            self.is_loading = True
            time.sleep(0.2)
            super().load_bucket(specs, buffer, checksum)
            self.is_loading = False

    sink = Slow()
    first_error = {1: "a rank is gone", 2: "specs say .*it gave ..x"}[num_failures]
    with pytest.raises((OSError, SyncError), match=first_error):
        Publisher(Failing({name: torch.ones(4) for name in "abc"}), [sink], bucket_bytes=16).publish(1)
    assert ("did not come to its end either: OSError('a rank is gone')" in caplog.text) == (num_failures == 2)
    assert not sink.is_loading
    assert sink.weight_version() is None


def test_settings_without_sense_are_refused():
    for settings in ({"bucket_bytes": 0}, {"deadline_s": 0.0}):
        with pytest.raises(ValueError, match="expected positive numbers"):
            Publisher(InMemorySource(small_tensors()), [], **settings)


def test_sinks_without_a_name_are_numbered():
    class Nameless:
        def begin_update(self, version):
            raise RuntimeError("no")

        def load_bucket(self, specs, buffer, checksum): ...
        def commit_update(self, version, num_tensors): ...
        def weight_version(self): ...

    with pytest.raises(SyncError, match=r"sink 1 \(Nameless\): begin_update\(2\): RuntimeError: no"):
        Publisher(InMemorySource(small_tensors()), [InMemorySink(), Nameless()]).publish(2)


def test_the_checksum_is_that_of_the_bytes_for_every_kind_of_buffer():
    tensor = torch.tensor([1.5, -2.0])
    content = tensor.numpy().tobytes()
    # XXH3-64 of no bytes, from the specification of xxHash.
    assert checksum(b"") == checksum(torch.empty(0)) == "2d06800538d394c2"
    assert checksum(tensor) == checksum(content) == checksum(bytearray(content)) == checksum(memoryview(content))
    assert checksum(tensor.to(torch.bfloat16)) == checksum(b"\xc0\x3f\x00\xc0")
    assert checksum(torch.arange(6).reshape(2, 3).T) == checksum(torch.arange(6).reshape(2, 3).T.contiguous())
    assert checksum(content) != checksum(content[:-1] + b"\x00")


def test_the_fakes_keep_the_promises_that_they_are_used_to_check():
    check_weight_sink(InMemorySink)
    check_tensor_source(InMemorySource(small_tensors()))
    check_tensor_source(InMemorySource(small_tensors(), is_writer=False))


def test_the_checksum_of_a_bucket_is_xxh3_of_its_sums_by_column_and_by_row_and_of_the_rest():
    rng = np.random.default_rng(0)
    content = rng.integers(0, 256, 3 * 4096 * 8 + 5, dtype=np.uint8)
    rows = [content[i * 32768 : (i + 1) * 32768].view("<u8").tolist() for i in range(3)]
    columns = [sum(column) % 2**64 for column in zip(*rows, strict=True)]
    sums = np.array(columns + [sum(row) % 2**64 for row in rows], "<u8")
    expected = xxhash.xxh3_64_hexdigest(sums.tobytes() + content[-5:].tobytes() + (3 * 32768 + 5).to_bytes(8, "little"))
    assert bucket_checksum(torch.from_numpy(content)) == expected
    assert bucket_checksum(torch.empty(0, dtype=torch.uint8)) != bucket_checksum(torch.zeros(1, dtype=torch.uint8))


def test_the_checksum_of_a_bucket_sees_every_byte_and_its_place():
    rng = np.random.default_rng(1)
    content = torch.from_numpy(rng.integers(0, 256, 5 * 32768 + 3, dtype=np.uint8))
    seen = {bucket_checksum(content)}
    for place in [0, 7, 8, 32767, 32768, 4 * 32768 + 9, 5 * 32768, 5 * 32768 + 2]:
        changed = content.clone()
        changed[place] ^= 1 << int(rng.integers(8))
        seen.add(bucket_checksum(changed))
    row_exchanged, column_exchanged = content.clone(), content.clone()
    row_exchanged[:32768], row_exchanged[32768:65536] = content[32768:65536].clone(), content[:32768].clone()
    column_exchanged[:8], column_exchanged[8:16] = content[8:16].clone(), content[:8].clone()
    seen |= {bucket_checksum(row_exchanged), bucket_checksum(column_exchanged), bucket_checksum(content[:-1])}
    assert len(seen) == 1 + 8 + 3
    # A buffer that begins where no 64-bit integer does.
    shifted = torch.cat([torch.zeros(3, dtype=torch.uint8), content])[3:]
    assert bucket_checksum(shifted) in seen


def test_the_checks_find_broken_sinks_and_sources():
    class Trusting(InMemorySink):
        def load_bucket(self, specs, buffer, expected):
            super().load_bucket(specs, buffer, bucket_checksum(buffer))

    class Serving(InMemorySink):
        def weight_version(self):
            return 7

    class Generous(InMemorySink):
        def commit_update(self, version, num_tensors):
            super().commit_update(version, len(self._incoming))

    for sink_type, message in (
        (Trusting, "wrong checksum raised nothing"),
        (Serving, "serves while an update"),
        (Generous, "half of the tensors raised nothing"),
    ):
        with pytest.raises(AssertionError, match=message):
            check_weight_sink(sink_type)

    class Shuffled(InMemorySource):
        def iter_tensors(self):
            return iter(list(self.tensors.items())[::-1])

    with pytest.raises(AssertionError, match="iter_tensors gave"):
        check_tensor_source(Shuffled(small_tensors()))
