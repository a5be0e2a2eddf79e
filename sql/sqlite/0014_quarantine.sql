-- A refused row belongs to the dataset that it was read for: another recipe may read the same file in another way. After
-- each reading, what the reading before it said and this one did not is gone.

ALTER TABLE quarantine RENAME TO quarantine_before;
CREATE TABLE quarantine (                  -- rows that were refused, and why
    recipe      TEXT NOT NULL,             -- its name; '' with an empty role: written before this was known
    role        TEXT NOT NULL,
    dataset     TEXT NOT NULL,
    file        TEXT NOT NULL,
    line        INTEGER NOT NULL,
    source      TEXT NOT NULL,
    reason      TEXT NOT NULL,
    detail      TEXT NOT NULL,
    excerpt     TEXT NOT NULL,
    reading     INTEGER NOT NULL,          -- the last one that refused it
    PRIMARY KEY (recipe, role, dataset, file, line)
) STRICT, WITHOUT ROWID;
INSERT INTO quarantine SELECT '', '', '', file, line, source, reason, detail, excerpt, 0 FROM quarantine_before;
DROP TABLE quarantine_before;
CREATE INDEX quarantine_by_place ON quarantine (file, line);
