-- Deletions: what is still to be done of the one that is under way, so that a killed one goes on.

CREATE TABLE forgetting (                  -- deletions that were asked for; not what was asked, which may say who
    forgetting_id INTEGER PRIMARY KEY,
    examples    INTEGER NOT NULL,
    exports     INTEGER NOT NULL,          -- whether exports on disk are rewritten, too
    started     REAL NOT NULL,
    finished    REAL                       -- null: it goes on with the next command that writes
) STRICT;

CREATE TABLE forgetting_example (          -- examples that are being deleted; gone from all tables, not yet from all files
    example_id  TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

CREATE TABLE forgetting_task (             -- files to be written without them, selections that something is to stand for
    kind        TEXT NOT NULL CHECK (kind IN ('examples', 'attribute', 'features', 'selection', 'scores')),
    number      INTEGER NOT NULL,          -- of the shard, or of the selection
    PRIMARY KEY (kind, number)
) STRICT, WITHOUT ROWID;
