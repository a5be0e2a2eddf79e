"""The command line. Every command imports what it needs when it runs, so that `--help` is quick."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from gradsift import method_commands, mixture_commands, report_commands  # noqa: F401 - they register their commands
from gradsift.app import DEFAULT_STORE, Flag, Json, StorePath, app


@app.command
def run(
    recipe: Path,
    /,
    *,
    store: StorePath = DEFAULT_STORE,
    export_to: Path | None = None,
    dry_run: Flag = False,
    no_prefect: Flag = False,
    processes: int | None = None,
    json: Json = False,
) -> None:
    """Run a recipe, or finish a run that was interrupted.

    Parameters
    ----------
    recipe
        The recipe file (YAML).
    export_to
        Folder for the exports; default: exports/ in the store.
    dry_run
        Show what would run: rows, bytes, minutes. Writes nothing.
    no_prefect
        Run the stages without Prefect.
    processes
        Do this many validation runs at once, each in a process of its own.
    """
    from gradsift import show
    from gradsift.pipelines.recipe import load_recipe

    loaded = load_recipe(recipe)
    quiet_libraries()
    if dry_run:
        from gradsift.pipelines.runs.dryrun import plan_run

        plan = asdict(plan_run(loaded, store))
        show.document(plan) if json else _show_plan(plan)
        return
    with show.progress() as progress:
        result = asdict(_runner(no_prefect, processes)(loaded, store, export_to, progress))
    show.document(result) if json else _show_result(result)


@app.command
def demo(*, folder: Path = Path("demo"), no_prefect: Flag = False, json: Json = False) -> None:
    """Make a pool with planted truth and a small model, run everything, and show what was found.

    Parameters
    ----------
    folder
        Where to put data, model, store, export and result.json.
    no_prefect
        Run the stages without Prefect.
    """
    from gradsift import show
    from gradsift.pipelines.demo.demo import run_demo

    quiet_libraries()
    with show.progress() as progress:
        run_one = _runner(no_prefect)
        document = run_demo(folder, lambda recipe, store, out: run_one(recipe, store, out, progress), progress)
    if json:
        show.document(document)
        return
    _show_result(document["run"])
    found = document["planted"]
    show.table(
        "Planted truth",
        [
            {"planted": "rows of the target skill", "in pool": found["target_rows"]["planted"],
             "outcome": f"{found['target_rows']['selected']} of {found['selected']} selected"},
            {"planted": "near-duplicates of them", "in pool": found["near_duplicates"]["planted"],
             "outcome": f"{found['near_duplicates']['selected']} selected"},
            {"planted": "wrong answers", "in pool": found["wrong_answers"]["planted"],
             "outcome": f"{found['wrong_answers']['selected']} selected"},
            {"planted": "exact duplicates", "in pool": found["exact_duplicates"]["planted"],
             "outcome": f"{found['exact_duplicates']['found']} found and merged"},
            {"planted": "leaked test questions", "in pool": found["leaks"]["planted"],
             "outcome": f"{found['leaks']['found']} found and left out"},
            {"planted": "bad rows", "in pool": sum(found["bad_rows"]["planted"].values()),
             "outcome": f"{sum(found['bad_rows']['quarantined'].values())} quarantined"},
        ],
    )  # fmt: skip
    show.line(f"Everything is in {folder}/ ; the table as data: {folder}/result.json")


@app.command
def query(
    text: str | None = None,
    /,
    *,
    answer: str | None = None,
    id: Annotated[str | None, Parameter(name="--id")] = None,  # noqa: A002 - the flag's name
    k: Annotated[int, Parameter(name=["-k", "--top"])] = 10,
    checkpoint: int | None = None,
    store: StorePath = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Show the training rows whose gradients are most like a chat's.

    Parameters
    ----------
    text
        What the user says.
    answer
        What the assistant answers; default: the model's own greedy answer.
    id
        Ask for the neighbours of a stored example instead (the start of its id is enough).
    k
        How many rows.
    checkpoint
        Which checkpoint's gradients; default: the last.
    """
    from gradsift import show
    from gradsift.datastore.errors import InputError
    from gradsift.datastore.store import Store

    if (text is None) == (id is None) or k < 1:
        raise InputError("give either a text or --id, and -k of at least 1")
    quiet_libraries()
    from gradsift.pipelines.runs.query import query_by_id, query_by_text

    with Store(store, create=False) as opened:
        if id is not None:
            found = query_by_id(opened, id, k, checkpoint)
        else:
            found = query_by_text(opened, text or "", answer, k, checkpoint)
    if json:
        show.document(asdict(found))
        return
    show.line(f"user: {found.user}")
    show.line(f"assistant{' (generated)' if found.generated else ''}: {found.assistant}")
    rows = [asdict(hit) | {"example_id": hit.example_id[:8]} for hit in found.hits]
    show.table(f"Nearest in gradient space (checkpoint {found.checkpoint})", rows)


@app.command
def status(*, store: StorePath = DEFAULT_STORE, json: Json = False) -> None:
    """Show what a store holds: examples, quarantine, feature rows, selections, validation arms, live work."""
    from gradsift import show
    from gradsift.datastore.overview import overview
    from gradsift.datastore.store import Store

    with Store(store, create=False) as opened:
        found = overview(opened)
    if json:
        show.document(found)
        return
    for name, rows in found.items():
        show.table(name.replace("_", " ").capitalize(), rows)


@app.command
def doctor(*, store: StorePath = DEFAULT_STORE, json: Json = False) -> None:
    """Check this installation and, if there is one, the store."""
    from gradsift import show
    from gradsift.datastore.errors import GradsiftError
    from gradsift.doctor import checks

    rows = checks(store)
    show.document(rows) if json else show.table("Doctor", rows)
    if any(row["state"] == "bad" for row in rows):
        raise GradsiftError("something is wrong; see the lines marked bad")


@app.command
def verify(*, store: StorePath = DEFAULT_STORE, drop: Flag = False, json: Json = False) -> None:
    """Check every byte of a store against its digests.

    Parameters
    ----------
    drop
        Forget damaged files, so that the next run makes them again.
    """
    from gradsift import show
    from gradsift.datastore import maintenance
    from gradsift.datastore.errors import CorruptionError
    from gradsift.datastore.store import Store

    with Store(store, create=False) as opened:
        damage = maintenance.verify(opened)
        rows = [asdict(d) | ({"dropped": maintenance.drop_damaged(opened, d)} if drop else {}) for d in damage]
    show.document(rows) if json else show.table("Damaged files", rows)
    if damage and not drop:
        raise CorruptionError(f"{len(damage)} damaged files; `gradsift verify --drop` forgets them")


@app.command
def gc(
    *, store: StorePath = DEFAULT_STORE, grace_hours: float = 1.0, dry_run: Flag = False, json: Json = False
) -> None:
    """Delete files that no catalog row refers to (left by killed processes).

    Parameters
    ----------
    grace_hours
        Keep files younger than this; a live writer may be about to commit them.
    dry_run
        Only list them.
    """
    from gradsift import show
    from gradsift.datastore import maintenance
    from gradsift.datastore.store import Store

    with Store(store, create=False) as opened:
        work = maintenance.garbage if dry_run else maintenance.collect
        rows = [{"file": name, "bytes": size} for name, size in work(opened, grace_hours * 3600)]
    show.document(rows) if json else show.table("Unreferenced files", rows)


def _runner(no_prefect: bool, processes: int | None = None) -> Any:
    """(recipe, store folder, export folder or None, progress) → RunResult, with or without Prefect."""
    check_processes(no_prefect, processes)

    def run_it(recipe: Any, store: Path, export_root: Path | None, progress: Any) -> Any:
        if no_prefect:
            from gradsift.datastore.store import Store
            from gradsift.pipelines.runs.curate import curate

            with Store(store) as opened:
                return curate(recipe, opened, export_root=export_root, progress=progress)
        from gradsift.flows.curate import curate_with_prefect
        from gradsift.flows.running import processes as pool

        runner = pool(processes) if processes else None
        return curate_with_prefect(recipe, store, export_root=export_root, progress=progress, task_runner=runner)

    return run_it


def check_processes(no_prefect: bool, processes: int | None) -> None:
    """Raise InputError for a number of processes that cannot be."""
    from gradsift.datastore.errors import InputError

    if processes is not None and processes < 2:
        raise InputError("--processes must be at least 2; without it validation does one run after the other")
    if processes is not None and no_prefect:
        raise InputError("--processes uses Prefect's process pool; leave out --no-prefect")


def quiet_libraries() -> None:
    """Our own progress is enough; libraries may still warn."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.disable_progress_bar()


def _show_plan(plan: dict[str, Any]) -> None:
    from gradsift import show

    minutes = plan.pop("minutes")
    show.table("Would run (estimates for an empty store)", [{"what": k, "value": v} for k, v in plan.items()])
    show.table("Minutes", [{"stage": k, "minutes": v} for k, v in minutes.items()])


def _show_result(result: dict[str, Any]) -> None:
    from gradsift import show

    show.table("Stages", result["stages"])
    pool = result["ingest"]["pool"]
    rows = [{"source": name, "examples": count} for name, count in pool["by_source"].items()]
    show.table(f"Pool: {pool['examples']} examples, {pool['duplicates']} duplicates", rows)
    if pool.get("left_out"):
        show.table(f"Screening leaves {pool['used']} of them", pool["left_out"])
    bad = [{"reason": reason, "rows": count} for reason, count in pool["quarantined"].items()]
    show.table("Quarantined rows", bad)
    shown = ("name", "examples", "source_precision", "source_share_of_pool", "by_source", "export")
    if result["selections"]:
        show.table("Selections", result["selections"], shown)
    for made in result["mixtures"]:
        mixture_commands.show_mixture(made)
    if result["arms"]:
        show_arms(result["arms"])
    show.line(f"Report: {result['report']}")


def show_arms(arms: list[dict[str, Any]]) -> None:
    """The table of arms, and what follows from it in words."""
    from gradsift import show

    for target in dict.fromkeys(arm["target"] for arm in arms):
        mine = [arm for arm in arms if arm["target"] == target]
        rows = [
            {"arm": a["arm"], "rows": a["examples"], "label tokens": round(a["label_tokens"]),
             "test loss": a["test_loss_mean"], "±95%": a["test_loss_ci95"],
             "own source": percent(a["source_precision"]), a["metric"]: a["score_mean"], "forgets": a["forgetting"]}
            for a in mine
        ]  # fmt: skip
        columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
        show.table(f"{target}: test loss by arm (mean over seeds, nats per token)", rows, columns)
        for arm in mine:
            if arm["diverged"]:
                show.line(f"{target}: {arm['arm']} diverged on {arm['diverged']} seeds; they are left out")
            for baseline, versus in arm["versus"].items():
                if arm["arm"] in ("selected", "mixture") and baseline != arm["arm"]:
                    show.line(verdict_line(target, arm["arm"], baseline, versus))


def percent(share: float | None) -> str | None:
    """A share in percent; None as it is."""
    return None if share is None else f"{share:.0%}"


def verdict_line(target: str, arm: str, baseline: str, versus: dict[str, Any]) -> str:
    """One comparison in words."""
    from gradsift.pipelines.report.report import p_value

    interval = "" if versus["low"] is None else f" [{versus['low']:+.4f}, {versus['high']:+.4f}]"
    p = "" if versus["p_adjusted"] is None else f", {p_value(versus['p_adjusted'])} (of {versus['comparisons']})"
    return (
        f"{target}: {arm} − {baseline} = {versus['difference']:+.4f}{interval}; lower on {versus['wins']} of "
        f"{versus['seeds']} seeds{p}: {versus['verdict']}."
    )
