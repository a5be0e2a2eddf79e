"""Files as objects of an S3 server: the promises of `Backend`, copies on a host, URLs, forks."""

import os
import shutil
import signal
import sys
import time

import pytest
import s3
from running import free_port, start

from gradsift import api
from gradsift.datastore import cache as cache_module
from gradsift.datastore import examples, objects
from gradsift.datastore import s3 as seam
from gradsift.datastore.backend import StoredFile
from gradsift.datastore.cache import Cache
from gradsift.datastore.errors import CorruptionError, InputError, UnavailableError
from gradsift.datastore.examples import Example
from gradsift.datastore.identity import example_id
from gradsift.datastore.objects import ObjectFiles
from gradsift.datastore.place import Place
from gradsift.datastore.selects import query_sql
from gradsift.datastore.store import Store
from gradsift.datastore.testing import CONTENT, BackendTests, finished, put
from gradsift.datastore.where import matching


@pytest.fixture
def backend(bucket, tmp_path):
    return ObjectFiles(bucket.url(), tmp_path / "cache")


@pytest.fixture
def small_parts(monkeypatch):
    """Objects of more than 5 MiB, the least that S3 allows, go up in parts."""
    monkeypatch.setattr(seam, "PART_BYTES", 5 << 20)
    return bytes(range(256)) * (11 << 12)  # 11 MiB: three parts


def copies(backend):
    folder = backend.cache.folder
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


class TestObjectFiles(BackendTests):
    @pytest.fixture
    def backend(self, bucket, tmp_path):
        return ObjectFiles(bucket.url(), tmp_path / "cache")

    @pytest.fixture
    def overwrite(self, bucket):
        return bucket.put

    @pytest.fixture
    def abandon(self, bucket):
        return bucket.abandon


def test_tables_of_objects_are_read_and_checked_as_those_of_a_folder(bucket, tmp_path):
    chats = [[{"role": "user", "content": f"ask {k}"}, {"role": "assistant", "content": "say"}] for k in range(5)]
    with Store(Place(tmp_path / "store", None, bucket.url())) as store:
        examples.add(store, [Example(example_id(chat), chat, "a", "f", k + 1) for k, chat in enumerate(chats)])
        asked = "select count(*) from examples where text like '%ask%'"
        assert query_sql(store, asked).item() == 5
        assert matching(store, "text like '%ask 3%'") == [example_id(chats[3])]
        name = next(name for name in bucket.content() if name.startswith("examples/"))
    bucket.put(name, b"other bytes")
    shutil.rmtree(tmp_path / "store" / "cache", ignore_errors=True)
    with Store(tmp_path / "store") as store, pytest.raises(CorruptionError, match="shard 1 "):
        query_sql(store, asked)


def test_the_store_may_be_the_whole_bucket(s3_server, tmp_path):
    bucket = s3.Bucket(s3_server, f"whole-{os.urandom(6).hex()}", prefix="")
    backend = ObjectFiles(bucket.url(), tmp_path)
    file = put(backend)
    bucket.client.put_object(Bucket=bucket.name, Key="features/deeper/x", Body=b"not ours")
    assert finished(backend) == [file.name]
    backend.check(file)
    backend.delete(file.name)
    assert finished(backend) == []


# URLs


@pytest.mark.parametrize(
    ("url", "name", "prefix", "endpoint", "region"),
    [
        ("s3://bucket", "bucket", "", None, None),
        ("s3://bucket/", "bucket", "", None, None),
        ("s3://bucket/team/store/", "bucket", "team/store", None, None),
        ("s3://bucket/a?region=eu-west-1", "bucket", "a", None, "eu-west-1"),
        ("s3://bucket/a?endpoint_override=10.0.0.1:9000&scheme=http", "bucket", "a", "http://10.0.0.1:9000", None),
        ("s3://bucket/a?endpoint_override=minio.example", "bucket", "a", "https://minio.example", None),
    ],
)
def test_urls_say_bucket_prefix_and_server(url, name, prefix, endpoint, region):
    objects.check_url(url)
    assert seam.parse_url(url) == seam.Bucket(name, prefix, endpoint, region)


@pytest.mark.parametrize(
    "url",
    [
        "s3://me:hunter2@bucket/a",
        "s3://hunter2@bucket/a",
        "s3://bucket/a?access_key=hunter2",
        "s3://bucket/a?secret_key=hunter2",
        "s3://bucket/a?AWS_SECRET_ACCESS_KEY=hunter2",
        "s3://bucket/a?session_token=hunter2",
        "s3://bucket/a?X-Amz-Security-Token=hunter2",
    ],
)
def test_a_url_with_a_secret_is_refused_and_not_repeated(url):
    with pytest.raises(InputError, match="AWS_ACCESS_KEY_ID") as caught:
        objects.check_url(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "s3://BUCKET"),
        ("bucket/a", "s3://BUCKET"),
        ("gs://bucket/a", "speak S3"),
        ("s3:///a", "s3://BUCKET"),
        ("s3://bucket:9000/a", "s3://BUCKET"),
        ("s3://bucket/a#b", "s3://BUCKET"),
        ("s3://bucket/../a", "dots"),
        ("s3://bucket/a//b", "empty part"),
        ("s3://bucket/a?endpoint=b", "endpoint_override"),
        ("s3://bucket/a?scheme=ftp", "http or https"),
        ("s3://bucket/a?endpoint_override=http://b:1", "HOST:PORT"),
        ("s3://bucket/a?region", "s3://BUCKET"),
        ("s3://[bucket/a", "s3://BUCKET"),
    ],
)
def test_a_url_that_is_no_place_is_refused_with_what_to_write(url, says):
    with pytest.raises(InputError, match=says):
        objects.check_url(url)


def test_without_boto3_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(InputError, match=r"gradsift\[s3\]"):
        put(ObjectFiles("s3://bucket", tmp_path))


# Servers that refuse


def uses(backend):
    """Each way to use a back-end, with a file that it need not have."""
    file = StoredFile("features/0.bin", 3, "0" * 64)
    return [
        lambda: put(backend),
        lambda: backend.there(file),
        lambda: backend.check(file),
        lambda: backend.open(file),
        lambda: backend.delete(file.name),
        lambda: list(backend.list("features")),
    ]


def test_a_missing_bucket_is_named_whatever_is_asked(s3_server, tmp_path):
    backend = ObjectFiles(f"s3://nobodys/x?endpoint_override={s3_server}&scheme=http", tmp_path)
    for use in uses(backend):
        with pytest.raises(InputError, match=f"no bucket 'nobodys' at http://{s3_server}"):
            use()
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_no_bucket_can_have_is_told(s3_server, tmp_path):
    backend = ObjectFiles(f"s3://a_B?endpoint_override={s3_server}&scheme=http", tmp_path)
    for use in uses(backend):
        with pytest.raises(InputError, match="a_B"):
            use()
    with pytest.raises(InputError, match="s3://%20"):
        put(ObjectFiles("s3://%20", tmp_path))


def test_doctor_says_what_is_wrong_with_the_server(bucket, tmp_path):
    root = tmp_path / "store"
    Store(Place(root, None, bucket.url())).close()
    assert [check.state for check in api.doctor(root) if check.check == "store"] == ["ok"]
    for name in bucket.content():
        bucket.client.delete_object(Bucket=bucket.name, Key=bucket.key(name))
    bucket.client.delete_bucket(Bucket=bucket.name)
    (bad,) = [check for check in api.doctor(root) if check.check == "store"]
    assert bad.state == "bad"
    assert "no bucket" in bad.detail


def test_refused_credentials_are_told_with_where_they_are_read_from(bucket, faulty, tmp_path):
    address, faults = faulty
    backend = ObjectFiles(bucket.url(address), tmp_path)
    for use in uses(backend):
        faults.plan("403", times=1)
        with pytest.raises(InputError, match=rf"{address} refuses the request \((AccessDenied|403)\).*AWS_PROFILE"):
            use()


def test_missing_credentials_are_told(bucket, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for use in uses(ObjectFiles(bucket.url(), tmp_path)):
        with pytest.raises(InputError, match=r"no credentials for s3://.*AWS_ACCESS_KEY_ID"):
            use()


def test_a_dead_server_is_an_error_soon(tmp_path):
    port = free_port()
    backend = ObjectFiles(f"s3://bucket/x?endpoint_override=127.0.0.1:{port}&scheme=http", tmp_path)
    began = time.monotonic()
    with pytest.raises(UnavailableError, match=rf"s3://bucket/x at http://127.0.0.1:{port}.*same command again"):
        put(backend)
    assert time.monotonic() - began < 60
    assert list(tmp_path.iterdir()) == []


# Large objects


def test_a_large_object_goes_up_in_parts_and_comes_down_whole(backend, bucket, small_parts):
    file = put(backend, small_parts)
    assert bucket.content() == {file.name: small_parts}
    backend.check(file)
    backend.keep(list)
    assert backend.open(file).read() == small_parts


def test_parts_of_a_failed_upload_are_taken_away(bucket, faulty, tmp_path, small_parts):
    address, faults = faulty
    faults.plan("403", "PUT", after=1)
    with pytest.raises(InputError):
        put(ObjectFiles(bucket.url(address), tmp_path), small_parts)
    assert bucket.uploads() == []
    assert bucket.content() == {}


def test_an_upload_that_was_taken_away_meanwhile_commits_nothing(bucket, faulty, tmp_path, small_parts):
    """By `gc`, say, when its writer was asleep for hours. (S3's answer; moto's to this is a plain 500.)"""
    address, faults = faulty
    faults.plan("404", "PUT", after=1, times=2)
    with pytest.raises(FileNotFoundError):  # of which `Store.commit_files` makes a BusyError
        put(ObjectFiles(bucket.url(address), tmp_path), small_parts)
    assert bucket.content() == {}
    assert bucket.uploads() == []


def test_the_age_of_an_unfinished_upload_is_that_of_its_newest_part(backend, bucket):
    bucket.abandon("features", b"12345")
    (found,) = backend.list("features")
    assert found.bytes == 5
    assert found.age < 60


def test_a_bucket_that_keeps_old_versions_keeps_none_of_what_is_deleted(backend, bucket):
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    file, other = put(backend), put(backend, CONTENT * 2)
    bucket.put(file.name, b"a second version")
    backend.delete(file.name)
    left = bucket.client.list_object_versions(Bucket=bucket.name)
    assert [version["Key"] for version in left["Versions"]] == [bucket.key(other.name)]
    assert "DeleteMarkers" not in left


# Copies on this host


def test_what_was_written_or_read_is_fetched_no_more(bucket, faulty, tmp_path):
    address, faults = faulty
    writer, reader = (ObjectFiles(bucket.url(address), tmp_path / name) for name in ("one", "other"))
    file = put(writer)
    asked = len(faults.seen)
    assert writer.map(file).read() == writer.open(file).read() == CONTENT
    assert len(faults.seen) == asked
    for _ in range(3):
        assert reader.open(file).read() == CONTENT
    assert len([path for method, path in faults.seen[asked:] if method == "GET"]) == 1
    asked = len(faults.seen)
    again = ObjectFiles(bucket.url(address), tmp_path / "other")  # as another process of that host
    assert again.map(file).read() == CONTENT
    assert len(faults.seen) == asked


def test_a_changed_object_is_never_served_under_another_ones_digest(backend, bucket, tmp_path):
    file = put(backend)
    bucket.put(file.name, CONTENT[::-1])
    changed = StoredFile(file.name, file.bytes, "0" * 64)
    with pytest.raises(CorruptionError):
        backend.open(changed)
    other = ObjectFiles(bucket.url(), tmp_path / "other")
    with pytest.raises(CorruptionError, match=file.name):
        other.ready(file)
    with pytest.raises(CorruptionError, match=file.name):
        other.open(file)
    assert copies(other) == []
    assert other.damaged(file).read() == CONTENT[::-1]  # for `verify --repair`, which looks what is left
    assert copies(other) == []


@pytest.mark.parametrize("damage", [b"", CONTENT[:-1], CONTENT[::-1]])
def test_a_damaged_copy_is_dropped_and_fetched_again(backend, bucket, damage):
    file = put(backend)
    (backend.cache.folder / file.sha256).write_bytes(damage)
    fresh = ObjectFiles(bucket.url(), backend.cache.folder)
    fresh.check(file)
    assert fresh.open(file).read() == CONTENT
    assert copies(fresh) == [file.sha256]


def test_copies_may_be_deleted_at_any_time(backend):
    file = put(backend)
    with backend.map(file) as reader:
        shutil.rmtree(backend.cache.folder)
        assert reader.read() == CONTENT
    assert backend.open(file).read() == CONTENT


def test_the_least_recently_used_copies_go(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv(cache_module.LIMIT, str(3 * len(CONTENT)))
    backend = ObjectFiles(bucket.url(), tmp_path / "cache")
    files = [put(backend, CONTENT[k:] + CONTENT[:k]) for k in range(3)]
    for age, file in zip((30, 20, 10), files, strict=True):
        os.utime(tmp_path / "cache" / file.sha256, (time.time() - age,) * 2)
    backend.open(files[0]).close()
    new = put(backend, CONTENT[7:] + CONTENT[:7])
    assert copies(backend) == sorted([files[0].sha256, files[2].sha256, new.sha256])
    assert backend.open(files[1]).read() == CONTENT[1:] + CONTENT[:1]


def test_a_copy_larger_than_the_limit_is_read_all_the_same(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv(cache_module.LIMIT, "10")
    backend = ObjectFiles(bucket.url(), tmp_path / "cache")
    one, other = put(backend), put(backend, CONTENT * 2)
    assert copies(backend) == [other.sha256]
    assert backend.open(one).read() == CONTENT
    assert copies(backend) == [one.sha256]


@pytest.mark.parametrize("text", ["much", "-1", "1e9"])
def test_a_limit_that_is_no_number_is_refused(tmp_path, monkeypatch, text):
    monkeypatch.setenv(cache_module.LIMIT, text)
    with pytest.raises(InputError, match=cache_module.LIMIT):
        Cache(tmp_path)


def test_copies_that_nobody_knows_go_and_those_being_written_stay(tmp_path):
    cache = Cache(tmp_path / "cache")
    for name in ("a" * 64, "b" * 64, cache_module.TMP_PREFIX + "0" * 32, "notes.txt"):
        cache.folder.mkdir(exist_ok=True)
        (cache.folder / name).write_bytes(b"text")
    with cache.aside() as (path, handle):
        handle.write(b"half")
        Cache(cache.folder).keep({"a" * 64})
        assert sorted(found.name for found in cache.folder.iterdir()) == sorted(["a" * 64, path.name, "notes.txt"])
    assert sorted(found.name for found in cache.folder.iterdir()) == ["a" * 64, "notes.txt"]


def test_what_a_killed_writer_left_beside_the_copies_goes(bucket, faulty, tmp_path):
    """`kill -9` while the object is on its way."""
    address, faults = faulty
    faults.plan("hold", "PUT")
    code = (
        "import sys; from pathlib import Path; from gradsift.datastore.objects import ObjectFiles\n"
        "ObjectFiles(sys.argv[1], Path(sys.argv[2])).write('features', '.bin', lambda h: h.write(b'secret'))"
    )
    process = start("-c", code, bucket.url(address), tmp_path / "cache")
    faults.held.wait()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (left,) = (tmp_path / "cache").iterdir()
    assert left.read_bytes() == b"secret"
    ObjectFiles(bucket.url(), tmp_path / "cache").keep(list)
    assert not left.exists()
    assert bucket.content() == {}


# Processes


def test_a_fork_has_connections_of_its_own(backend, bucket):
    """Parent and child read and write at once, through clients that were made before the fork."""
    file = put(backend, CONTENT * 50)
    backend.check(file)
    pids = []
    for number in range(3):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for k in range(10):
                    backend.check(file)
                    put(backend, CONTENT + bytes([number, k]))
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    for k in range(10):
        backend.check(file)
        put(backend, CONTENT + bytes([200, k]))
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0, 0]
    assert len(finished(backend)) == 1 + 4 * 10
    for name, content in bucket.content().items():
        assert content.startswith(CONTENT), name
