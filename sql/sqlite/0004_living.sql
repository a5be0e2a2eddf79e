-- A store that lives: what a warm-up was and which examples it saw, files that must go, examples that must not come back.

CREATE TABLE warmup (                      -- a warm-up run, known by the fingerprint that its checkpoints carry
    fingerprint TEXT PRIMARY KEY,
    settings    TEXT NOT NULL,             -- fingerprint of all that decides it but the pool: what a later run reuses it by
    pool        TEXT NOT NULL,             -- digest of the pool that its sample was drawn from
    pool_rows   INTEGER NOT NULL,
    epochs      INTEGER NOT NULL,          -- checkpoints that it has when it is finished
    created     REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX warmup_by_settings ON warmup (settings);

CREATE TABLE warmup_example (              -- examples that were trained on; kept when the example is deleted
    fingerprint TEXT NOT NULL REFERENCES warmup (fingerprint) ON DELETE CASCADE,
    example_id  TEXT NOT NULL,
    PRIMARY KEY (fingerprint, example_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX warmup_by_example ON warmup_example (example_id);

CREATE TABLE doomed (                      -- files that are no longer part of the store and are to be deleted
    name        TEXT PRIMARY KEY,
    after       REAL NOT NULL              -- not before this time: a reader may have opened it
) STRICT, WITHOUT ROWID;

CREATE TABLE tombstone (                   -- examples that were deleted: the digest alone, so that they do not come back
    example_id  TEXT PRIMARY KEY CHECK (length(example_id) = 32),
    created     REAL NOT NULL
) STRICT, WITHOUT ROWID;

-- Why a version does not hold any more (an example of it was deleted); null for one that does.
ALTER TABLE dataset ADD COLUMN void TEXT;
ALTER TABLE selection ADD COLUMN void TEXT;
