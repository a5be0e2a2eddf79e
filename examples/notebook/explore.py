# ruff: noqa: ANN001, ANN202, T201 - cells are functions that marimo writes; as a script it says what it did
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Look at a store, ask it, choose from it and export: a marimo notebook over gradsift's public functions.

marimo edit examples/notebook/explore.py -- --store store
python examples/notebook/explore.py --store store --out chosen     (all of it at once, without a browser)
"""

import marimo

app = marimo.App(width="medium")


@app.cell
def _():
    import html
    from pathlib import Path

    import marimo as mo
    import polars as pl

    import gradsift

    return Path, gradsift, html, mo, pl


@app.cell
def _(mo):
    given = mo.cli_args()
    folder = mo.ui.text(str(given.get("store") or "store"), label="Folder of the store")
    out = mo.ui.text(str(given.get("out") or "chosen"), label="Export to")
    mo.vstack([mo.md("# A store of gradsift"), folder])
    return folder, out


@app.cell
def _(folder, gradsift, mo):
    try:
        store = gradsift.open_store(folder.value)
    except gradsift.GradsiftError as error:
        mo.stop(True, mo.md(f"**{error}**"))
    return (store,)


@app.cell
def _(mo, pl, store):
    sources = (
        store.frame("examples")
        .filter(pl.col("role") == "pool")
        .group_by("source")
        .agg(pl.len().alias("rows"), pl.col("loss").mean().round(3), pl.col("chars").mean().round())
        .sort("rows", descending=True)
        .collect()
    )
    mo.vstack([mo.md("## What is in its pool"), mo.ui.table(sources, selection=None)])
    return (sources,)


@app.cell
def _(html):
    def bars(names, values, width=420):
        """Bars in the browser's colour of text, longest value across."""
        most = max([value for value in values if value] or [1])
        lines = "".join(
            f'<text x="150" y="{20 * k + 15}" text-anchor="end">{html.escape(str(name)[:22])}</text>'
            f'<rect x="158" y="{20 * k + 3}" width="{width * (value or 0) / most:.1f}" height="14" fill="#4269d0"/>'
            f'<text x="{164 + width * (value or 0) / most:.1f}" y="{20 * k + 15}">{value or 0:.3g}</text>'
            for k, (name, value) in enumerate(zip(names, values, strict=True))
        )
        size = f'width="{width + 240}" height="{20 * len(names) + 6}"'
        return f'<svg {size} font-family="sans-serif" font-size="12" fill="currentColor">{lines}</svg>'

    return (bars,)


@app.cell
def _(bars, mo, sources):
    measured = sources.drop_nulls("loss").sort("loss", descending=True)
    mo.vstack([mo.md("Mean loss of each source at the last checkpoint"),
               mo.Html(bars(measured["source"], measured["loss"]))])  # fmt: skip
    return


@app.cell
def _(mo, pl, store):
    hardest = (
        store.frame("examples")
        .filter(pl.col("loss").is_not_null() & pl.col("mark").is_null())
        .select("id", "source", pl.col("loss").round(3), pl.col("text").str.slice(0, 160))
        .sort("loss", "id", descending=[True, False])
        .head(200)
        .collect()
    )
    row = mo.ui.table(hardest, selection="single", initial_selection=[0])
    mo.vstack([mo.md("## The hardest rows: choose one to ask for its neighbours"), row])
    return (row,)


@app.cell
def _(gradsift, mo, row, store):
    mo.stop(row.value.is_empty(), mo.md("Choose a row."))
    asked = row.value["id"][0]
    try:
        near = gradsift.query(id=asked, k=8, store=store)
        opposed = gradsift.query(id=asked, k=8, opposed=True, store=store)
    except gradsift.GradsiftError as error:  # no gradient rows, or a model that is not there any more
        mo.stop(True, mo.md(f"**{error}**"))

    def listed(answer):
        return [{"cosine": round(hit.cosine, 3), "source": hit.source, "user": hit.user[:120]} for hit in answer.hits]

    mo.vstack([mo.md(f"Most alike by gradient, and most opposed to, `{asked[:8]}`"),
               mo.ui.table(listed(near), selection=None), mo.ui.table(listed(opposed), selection=None)])  # fmt: skip
    return


@app.cell
def _(mo, out):
    method = mo.ui.dropdown(["less", "rds_plus", "random"], value="less", label="Method")
    rows = mo.ui.slider(5, 200, value=20, label="Rows", show_value=True)
    choose = mo.ui.run_button(label="Choose and export")
    mo.vstack([mo.md("## Choose, and write what a trainer reads"), mo.hstack([method, rows, out, choose])])
    return choose, method, rows


@app.cell
def _(Path, choose, gradsift, method, mo, out, pl, rows, store):
    mo.stop(
        not choose.value and mo.app_meta().mode != "script", mo.md("The button writes to the store and the folder.")
    )
    chosen = gradsift.select(method.value, examples=rows.value, name="notebook", store=store)[0]
    written = gradsift.export(chosen.name, out.value, labels=False, store=store)
    exported = pl.read_parquet(Path(written.folder) / "data" / "*.parquet")
    print(f"{written.rows} rows of {chosen.name} in {written.folder}")
    counts = exported["source"].value_counts(sort=True)
    mo.vstack([mo.md(f"{written.rows} rows in `{written.folder}`"), mo.ui.table(counts, selection=None)])
    return


if __name__ == "__main__":
    app.run()
