"""The recipe: a whole run as one file."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from gradsift.datastore.errors import InputError
from gradsift.datastore.place import Place, check_urls, settled
from gradsift.datastore.runs import Json
from gradsift.datastore.suggest import suggestion
from gradsift.pipelines.memory import parse_size
from gradsift.pipelines.methods.registry import ROWS, Need, Needs, methods
from gradsift.pipelines.recipe.cascade import Cascade, serves
from gradsift.pipelines.recipe.export import Export
from gradsift.pipelines.recipe.features import Features
from gradsift.pipelines.recipe.mix import Mix, Part
from gradsift.pipelines.recipe.model import Encoding, Lora, Model, Warmup
from gradsift.pipelines.recipe.notify import Notify
from gradsift.pipelines.recipe.pool import Source, Target
from gradsift.pipelines.recipe.runner import PROCESS, THREADS, AnyRunner, Runner
from gradsift.pipelines.recipe.screening import Decontaminate, Dedup
from gradsift.pipelines.recipe.section import Name, Section
from gradsift.pipelines.recipe.select import Method, Select
from gradsift.pipelines.recipe.validate import Validate

OF_TOKENIZER = ("a budget in tokens", "`export.labels`")


class Recipe(Section):
    """A whole curation run."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    """Name of the run and of its exports: lower-case letters, digits and dashes."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of every random choice that has no seed of its own."""
    pool: list[Source] = Field(min_length=1)
    targets: dict[Name, Target] = Field(default_factory=dict)
    """Capabilities; `select` needs at least one."""
    dedup: Dedup | None = None
    """Leave near-duplicates out of the pool."""
    decontaminate: Decontaminate | None = Decontaminate()
    """`null`: leave only the very rows of test sets out."""
    lm: Model | None = Field(default=None, alias="model")
    """Needed for gradients, for budgets in tokens and for validation; `random`, `bm25` and `embed` need none."""
    encoding: Encoding = Encoding()
    lora: Lora = Lora()
    warmup: Warmup | None = Warmup()
    """`null`: no training; rows are taken at the model as it is (needs `features.transform: sgd`)."""
    features: Features = Features()
    selecting: Select | None = Field(default=None, alias="select")
    """A selection for each target."""
    mix: Mix | None = None
    """One mixture of several parts."""
    export: Export = Export()
    validate_: Validate | None = Field(default=None, alias="validate")
    """Leave out to stop after the export."""
    notify: Notify | None = None
    workers: Annotated[int, Field(gt=0)] = 1
    """How many pieces of the work are done at once, each by a worker that loads the model for itself; never changes the
    result. A cluster that is there (`runner.address`) has as many as it has."""
    runner: AnyRunner = Runner()
    """Who the workers are: `threads`, `process`, `dask`, `ray`, or as below; never changes the result."""
    catalog_url: str | None = None
    """Where the store's catalog is when hosts share it: `postgresql://host/database?schema=team`. By default it is a
    file in the store's folder. Passwords come from PGPASSWORD or ~/.pgpass."""
    store_url: str | None = None
    """Where the store's files are when they are not in its folder: `s3://bucket/prefix`, or `file:///shared/folder`.
    Keys come from the environment."""
    memory: Annotated[int, BeforeValidator(parse_size)] | None = None
    """What a method may hold in memory, such as `4GiB` or `500MB`, above the process itself and its model; by default
    60 % of what is free. One that needs more is refused before gradients are computed. Never changes what is chosen."""

    _written: Json | None = PrivateAttr(default=None)

    def place(self, root: Path) -> Place:
        """Where the store in a folder is, or is to be made. Raises InputError where the folder is of another store."""
        return settled(Place(root, self.catalog_url, self.store_url))

    def with_processes(self, count: int) -> "Recipe":
        """The same recipe, its pieces done by so many processes of this host."""
        return self.model_copy(update={"runner": Runner(kind=PROCESS), "workers": count})

    def require_threads(self) -> None:
        """Raise InputError where the workers are not threads: all others need Prefect."""
        if self.runner.kind != THREADS:
            raise InputError(
                f"recipe {self.name!r} has `runner: {self.runner.kind}`, whose workers get their work from Prefect: "
                "run it with Prefect, or set `runner: threads`"
            )

    @property
    def written(self) -> Json:
        """The recipe as plain data, with paths as its author wrote them."""
        return self._written or self.model_dump(mode="json", by_alias=True)

    def written_as(self, data: Json) -> "Recipe":
        """The same recipe, remembering how its author wrote it."""
        copy = self.model_copy()
        copy._written = data
        return copy

    @model_validator(mode="after")
    def _urls_can_be_written_down(self) -> "Recipe":
        try:
            check_urls(self.catalog_url, self.store_url)
        except InputError as error:
            raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _moments_need_training(self) -> "Recipe":
        if self.warmup is None and self.features.transform != "sgd":
            raise ValueError("`warmup: null` needs `features.transform: sgd`: without training there are no moments")
        return self

    @model_validator(mode="after")
    def _complete(self) -> "Recipe":
        if self.selecting is None and self.mix is None:
            raise ValueError("give `select` (a selection for each target), `mix` (one mixture), or both")
        if self.selecting is not None and not self.targets:
            raise ValueError("`select` needs `targets`: what should the selection be good for?")
        if self.validate_ is not None and not self.targets:
            raise ValueError("`validate` measures on the test sets of `targets`; give at least one")
        if self.validate_ is not None and "redrawn" in self.validate_.arms and self.selecting is None:
            raise ValueError("the arm `redrawn` makes the selection of `select` again; there is none")
        for part in self.mix.parts if self.mix else ():
            if part.target is not None and part.target not in self.targets:
                hint = suggestion(part.target, self.targets, f"there are: {', '.join(self.targets) or 'none'}")
                raise ValueError(f"mix: no target {part.target!r}; {hint}")
        for part in self.mix.all_parts() if self.mix else ():
            if part.target is not None and self.method_of(part).between:
                by = self.method_of(part).method
                raise ValueError(
                    f"mix, part {part.name!r}: `{by}` tries methods out under one budget, and a part has one for each "
                    "source; `select` by it first, and name the method that won in the part's `select`"
                )
        why = self._model_for()
        if self.lm is None and why:
            raise ValueError(f"{why} needs `model`")
        if self.needs_rows and not self.targets:
            raise ValueError(f"{why} looks at gradients, which are computed for `targets`; give at least one")
        return self

    @model_validator(mode="after")
    def _cascade_serves(self) -> "Recipe":
        if self.cascade is None:
            return self
        mix = self.mix.all_parts() if self.mix else []
        arms = self.validate_.arms if self.validate_ else []
        whole = {
            "a mixture with gradients": any(self._part_needs(part) & ROWS for part in mix),
            "`features.plain_rows`": self.features.plain_rows,
            "`export.atlas`": self.export.atlas,
            "`dedup.semantic`": self._semantic_rows(),
            **{
                f"the arm `{arm}`": arm == "redrawn" or (arm in methods() and bool(methods()[arm].needs & ROWS))
                for arm in arms
            },
        }
        if self.selecting is not None and self.selecting.needs & ROWS and not serves(*self.selecting.parts()):
            whole = {f"`select` by `{self.selecting.method}`": True}
        what = next((what for what, looks in whole.items() if looks), "")
        if what:
            raise ValueError(
                f"{what} looks at rows of the whole pool, and `features.cascade` computes those of a part: leave it "
                "out, or choose by a method that takes the rows nearest to a target by gradients (less, less_rr, "
                "mean_cosine)"
            )
        return self

    @property
    def cascade(self) -> Cascade | None:
        """Which rows are computed; None where it is those of the whole pool, or none."""
        return self.features.cascade if self.needs_rows else None

    def _model_for(self) -> str:
        """What of the recipe needs a model, in words; nothing: ''."""
        return next((what for what, needed in self._model_uses().items() if needed), "")

    @property
    def runs_model(self) -> bool:
        """Whether chats go through the model, and not through its tokenizer alone."""
        return any(needed for what, needed in self._model_uses().items() if what not in OF_TOKENIZER) or self.needs_rows

    def _model_uses(self) -> dict[str, bool]:
        modelled = ROWS | {"training"}
        mix = self.mix.all_parts() if self.mix else []
        by = self.selecting.method if self.selecting else None
        return {
            f"`select` by `{by}`": self.selecting is not None and bool(self.selecting.needs & modelled),
            "a mixture with gradients": any(self._part_needs(part) & modelled for part in mix),
            "`export.atlas`": self.export.atlas,
            "`features.plain_rows`": self.features.plain_rows,
            OF_TOKENIZER[0]: self._counts_tokens(),
            "`weights: scaling_law`": self.weighed_by_trainings,
            "`validate`": self.validate_ is not None,
            "`dedup.semantic`": self._semantic_rows(),
            OF_TOKENIZER[1]: self.export.labels is True,
        }

    def _counts_tokens(self) -> bool:
        of_mix = self.mix is not None and bool(self.mix.tokens or self.mix.label_tokens)
        return of_mix or (self.selecting is not None and self.selecting.label_tokens is not None)

    def _semantic_rows(self) -> bool:
        semantic = self.dedup.semantic if self.dedup else None
        return semantic is not None and semantic.represent != "encoder"

    def _part_needs(self, part: Part) -> Needs:
        """What a part of the mixture looks at."""
        weighed: Needs = frozenset({"signals"} if part.weights in ("tive", "prospect") else ())
        return weighed | (self.method_of(part).needs if part.target is not None else frozenset())

    @property
    def weighed_by_trainings(self) -> bool:
        """Whether a part of the mixture has its weights fitted on trainings."""
        return self.mix is not None and any(part.weights == "scaling_law" for part in self.mix.all_parts())

    @property
    def mix_needs(self) -> Needs:
        """What the mixture's methods and weights look at."""
        none: Needs = frozenset()
        return none.union(*(self._part_needs(part) for part in (self.mix.all_parts() if self.mix else ())))

    @property
    def needs(self) -> Needs:
        """What the recipe's methods, weights and arms look at."""
        needs: set[Need] = set(self.selecting.needs) if self.selecting is not None else set()
        needs |= self.mix_needs
        for arm in self.validate_.arms if self.validate_ else ():
            needs |= methods()[arm].needs if arm in methods() else frozenset()
        return frozenset(needs)

    @property
    def needs_rows(self) -> bool:
        """Whether the run computes gradient rows."""
        return bool(self.needs & ROWS) or self.features.plain_rows or self.export.atlas or self._semantic_rows()

    @property
    def needs_plain(self) -> bool:
        """Whether it keeps rows of the plain gradient beside those that the transform makes."""
        semantic = self.dedup.semantic if self.dedup else None
        compares = semantic is not None and semantic.represent == "gradients"
        return self.features.plain_rows or compares or self.export.atlas or "plain" in self.needs

    def method_of(self, part: Part) -> Method:
        """The method of a part: its own, else that of `select`, else LESS."""
        if part.select is not None or self.selecting is None:
            return part.select or Method()
        return Method(**self.selecting.model_dump(include=set(Method.model_fields), exclude_unset=True))

    @property
    def model(self) -> Model:
        """The model; raises InputError when there is none."""
        if self.lm is None:
            raise InputError(f"recipe {self.name!r} has no `model`")
        return self.lm

    @property
    def select(self) -> Select:
        """The section `select`; raises InputError when there is none."""
        if self.selecting is None:
            raise InputError(f"recipe {self.name!r} has no `select`")
        return self.selecting

    @property
    def validation(self) -> Validate:
        """The section `validate`; raises InputError when there is none."""
        if self.validate_ is None:
            raise InputError(f"recipe {self.name!r} has no `validate`")
        return self.validate_
