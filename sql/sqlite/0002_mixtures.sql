-- Marks of near-duplicates and leaks, values computed for each example, mixtures with repeated examples.

CREATE TABLE attribute (                   -- values computed from each row of an examples shard, as a side file
    spec        TEXT NOT NULL CHECK (length(spec) = 64),  -- fingerprint of what was computed
    of_shard    INTEGER NOT NULL REFERENCES shard (shard_id),
    shard_id    INTEGER NOT NULL REFERENCES shard (shard_id),
    PRIMARY KEY (spec, of_shard)
) STRICT, WITHOUT ROWID;
CREATE INDEX attribute_by_shard ON attribute (shard_id);

CREATE TABLE screening (                   -- one look for duplicates or leaks in a pool
    screening_id INTEGER PRIMARY KEY,
    spec        TEXT NOT NULL UNIQUE,      -- canonical JSON of all that decided it
    created     REAL NOT NULL
) STRICT;

CREATE TABLE mark (                        -- an example left out by a screening; the example itself stays
    screening_id INTEGER NOT NULL REFERENCES screening (screening_id) ON DELETE CASCADE,
    example_id  TEXT NOT NULL REFERENCES example (example_id) ON DELETE CASCADE,
    reason      TEXT NOT NULL,
    twin        TEXT NOT NULL,             -- the example that it repeats
    similarity  REAL NOT NULL,
    PRIMARY KEY (screening_id, example_id)
) STRICT, WITHOUT ROWID;

ALTER TABLE selection_item ADD COLUMN copies INTEGER NOT NULL DEFAULT 1 CHECK (copies > 0);

ALTER TABLE run ADD COLUMN written TEXT;   -- the recipe with paths as its author wrote them, JSON
