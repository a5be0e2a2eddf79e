"""A catalog, an object store and two workers on hosts of their own: units go over the network, and one cable is pulled."""

import json
import sys
import time
from pathlib import Path

import pytest
from hosts import Hosts, wait_for
from postgres import Server
from running import PATIENCE
from s3 import CREDENTIALS, client

from gradsift import api
from gradsift.datastore import maintenance, versions
from gradsift.datastore.place import WORKER_FOLDER
from gradsift.datastore.store import Store
from gradsift.pipelines.recipe import parse_recipe

BIN = Path(sys.executable).parent
LEASE = "15"  # seconds; a host that is cut off keeps its units for so long


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    made = Hosts(tmp_path_factory.mktemp("hosts"), "services", "driver", "one", "two")
    try:
        yield made
    finally:
        (tmp_path_factory.getbasetemp() / "hosts.log").write_text(made.said())
        made.close()


@pytest.fixture(scope="module")
def services(hosts):
    """PostgreSQL, S3 and Prefect on the host `services`; the environment of everybody who uses them."""
    at = hosts["services"]
    database = Server(on=at)
    files = at.start(sys.executable, "-m", "moto.server", "-H", at.address, "-p", 5000, **CREDENTIALS)
    flows = at.start(
        sys.executable, "-m", "prefect", "server", "start", "--host", at.address, "--port", 4200,
        PREFECT_HOME=at.folder / "prefect",
    )  # fmt: skip
    wait_for(at.address, 5000, files)
    wait_for(at.address, 4200, flows)
    yield {
        "database": database,
        "s3": f"{at.address}:5000",
        "environment": {
            **CREDENTIALS, "PREFECT_API_URL": f"http://{at.address}:4200/api", "GRADSIFT_LEASE_SECONDS": LEASE,
            "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
        },
    }  # fmt: skip
    database.close()


def on_shared_places(recipe_data, services, name):
    """The recipe over a catalog and a bucket of its own, with small units."""
    client(services["s3"]).create_bucket(Bucket=name)
    return {
        **{key: value for key, value in recipe_data.items() if key != "validate"},
        "features": {**recipe_data["features"], "unit_rows": 8},
        "catalog_url": services["database"].url(name),
        "store_url": f"s3://{name}/store?endpoint_override={services['s3']}&scheme=http&region=us-east-1",
    }


def made_by(store):
    """{version: digest} of what a run made."""
    found = [versions.find(store, entry.report.version) for entry in versions.log(store)]
    return {(version.kind, version.name): version.digest for version in found}


@pytest.fixture(scope="module")
def alone(recipe_data, tmp_path_factory):
    """The same run by one process, on a disk."""
    folder = tmp_path_factory.mktemp("alone")
    plain = {key: value for key, value in recipe_data.items() if key != "validate"}
    api.run(plain, folder / "store")
    with Store(folder / "store", create=False) as store:
        return made_by(store)


def dask(hosts, environment):
    """A scheduler on `services`, a worker on each of the others; the recipe's runner."""
    at = hosts["services"]
    scheduler = at.start(
        BIN / "dask", "scheduler", "--host", at.address, "--port", 8786, "--no-dashboard", "--no-jupyter",
        DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL=f"{LEASE}s", **environment,
    )  # fmt: skip
    wait_for(at.address, 8786, scheduler)
    for host in (hosts["one"], hosts["two"]):
        host.start(
            BIN / "dask", "worker", f"tcp://{at.address}:8786", "--host", host.address, "--name", host.name,
            "--nthreads", 1, "--no-nanny", "--no-dashboard", "--local-directory", host.folder / "dask",
            **of_worker(host, environment),
        )  # fmt: skip
    for name in ("one", "two"):
        hosts[name].wait_until_said("Registered to")
    return {"kind": "dask", "address": f"tcp://{at.address}:8786"}


def ray(hosts, environment):
    """The same by Ray: a head that does no work, a node for each worker."""
    at = hosts["services"]
    small = ("--object-store-memory", 80 * 2**20, "--disable-usage-stats", "--block")
    # By default Ray takes five minutes to see that a line is cut in the middle of a task.
    patience = {"RAY_health_check_period_ms": 1000, "RAY_health_check_timeout_ms": 5000}
    patience |= {"RAY_grpc_client_keepalive_time_ms": 5000, "RAY_grpc_client_keepalive_timeout_ms": 5000}
    head = at.start(
        BIN / "ray", "start", "--head", "--node-ip-address", at.address, "--port", 6379, "--ray-client-server-port",
        10001, "--num-cpus", 0, "--include-dashboard", "false", *small, **environment, **patience,
    )  # fmt: skip
    wait_for(at.address, 10001, head)
    for host in (hosts["one"], hosts["two"]):
        host.start(
            BIN / "ray", "start", "--address", f"{at.address}:6379", "--node-ip-address", host.address, "--num-cpus", 1,
            *small, **of_worker(host, environment), **patience,
        )  # fmt: skip
    for name in ("one", "two"):
        hosts[name].wait_until_said("Ray runtime started")
    return {"kind": "ray", "address": f"ray://{at.address}:10001"}


def of_worker(host, environment):
    return {**environment, "PREFECT_HOME": host.folder / "prefect", WORKER_FOLDER: host.folder / "store"}


def cut_off_in_the_middle(hosts, services, recipe, driver):
    """Pull the cable of `one` while it has a unit and others are open; returns what is committed then."""
    schema = recipe["catalog_url"].rpartition("=")[2]
    held = f"SELECT count(*) FROM {schema}.lease WHERE name LIKE 'unit/%' AND holder LIKE 'one:%'"
    done = f"SELECT count(*), count(shard_id) FROM {schema}.unit"
    with services["database"].connect() as db:
        deadline = time.monotonic() + PATIENCE
        while True:
            assert driver.poll() is None, hosts["driver"].said()
            assert time.monotonic() < deadline
            if db.execute("SELECT to_regclass(%s)", (f"{schema}.lease",)).fetchone()[0]:
                units, committed = db.execute(done).fetchone()
                if committed > 1 and units - committed > 4 and db.execute(held).fetchone()[0]:
                    break
            time.sleep(0.02)
        hosts["one"].cut_off()
    return committed


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [dask, ray])
def test_a_host_that_is_cut_off_is_replaced_and_the_digests_are_those_of_one_process(
    hosts, services, recipe_data, alone, tmp_path, monkeypatch, cluster
):
    environment, at, name = services["environment"], hosts["driver"], cluster.__name__
    recipe = {**on_shared_places(recipe_data, services, name), "runner": cluster(hosts, environment)}
    (at.folder / f"{name}.yaml").write_text(json.dumps(recipe))
    driver = at.start(
        sys.executable, "-m", "gradsift", "run", f"{name}.yaml", "--store", name,
        PREFECT_HOME=at.folder / "prefect", **environment,
    )  # fmt: skip
    cut_off_in_the_middle(hosts, services, recipe, driver)
    assert driver.wait(timeout=PATIENCE) == 0, hosts.said()
    hosts["one"].plug_in_again()
    for variable, value in CREDENTIALS.items():
        monkeypatch.setenv(variable, value)
    with Store(parse_recipe(recipe).place(tmp_path / "look"), create=False) as store:
        assert made_by(store) == alone
        (rows,) = store.catalog.rows("SELECT count(row) AS made, count(*) AS planned FROM feature_row")
        (files,) = store.catalog.rows("SELECT sum(rows) AS made FROM shard WHERE kind='features'")
        assert rows["made"] == files["made"] > 100, "no row twice, none lost"
        assert not store.catalog.rows("SELECT 1 FROM unit WHERE shard_id IS NULL")
        assert not maintenance.verify(store)
    hosts["one"].end()
    hosts["two"].end()
