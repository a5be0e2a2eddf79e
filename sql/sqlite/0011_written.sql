-- Where exports and reports went that are not in the store's own folders for them: a deletion looks there.

CREATE TABLE written (
    path        TEXT PRIMARY KEY,          -- relative to the store where inside it, absolute elsewhere
    kind        TEXT NOT NULL CHECK (kind IN ('export', 'report')),
    first       REAL NOT NULL              -- when the first was written there
) STRICT, WITHOUT ROWID;
