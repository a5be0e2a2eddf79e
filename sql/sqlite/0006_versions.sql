-- Versions of datasets as intervals of membership, so that a version costs its changes; numbered versions of what runs made.

-- Which step of a run makes a dataset, and the versions that follow each other in it: the number of the first of them.
ALTER TABLE dataset ADD COLUMN lane TEXT NOT NULL DEFAULT '';
ALTER TABLE dataset ADD COLUMN chain INTEGER;
UPDATE dataset SET chain =
    (SELECT min(d.dataset_id) FROM dataset AS d WHERE d.role = dataset.role AND d.name = dataset.name);
CREATE INDEX dataset_by_chain ON dataset (chain, dataset_id);

CREATE TABLE membership (                  -- an example is in the versions `since <= dataset_id < until` of a chain
    chain       INTEGER NOT NULL,
    example_id  TEXT NOT NULL REFERENCES example (example_id) ON DELETE CASCADE,
    subtask     TEXT NOT NULL,
    since       INTEGER NOT NULL,
    until       INTEGER NOT NULL DEFAULT 9223372036854775807,  -- this: it has not left
    PRIMARY KEY (chain, example_id, since)
) STRICT, WITHOUT ROWID;

INSERT INTO membership (chain, example_id, subtask, since, until)
WITH place AS (
    SELECT dataset_id, chain,
        row_number() OVER (PARTITION BY chain ORDER BY dataset_id) AS n,
        lead(dataset_id, 1, 9223372036854775807) OVER (PARTITION BY chain ORDER BY dataset_id) AS following
    FROM dataset
),
member AS (                                -- members of versions in a row have the same `island`
    SELECT p.chain, m.example_id, m.subtask, p.dataset_id, p.following,
        p.n - row_number() OVER (PARTITION BY p.chain, m.example_id, m.subtask ORDER BY p.n) AS island
    FROM dataset_member AS m JOIN place AS p USING (dataset_id)
)
SELECT chain, example_id, subtask, min(dataset_id), max(following) FROM member
GROUP BY chain, example_id, subtask, island;

DROP TABLE dataset_member;
CREATE INDEX membership_by_example ON membership (example_id);
CREATE VIEW dataset_member AS              -- members of each version
SELECT d.dataset_id, m.example_id, m.subtask
FROM dataset AS d JOIN membership AS m
ON m.chain = d.chain AND m.since <= d.dataset_id AND m.until > d.dataset_id;

CREATE TABLE version (                     -- what runs made, numbered; the content of an old one may have been pruned
    kind        TEXT NOT NULL CHECK (kind IN ('pool', 'selection', 'mixture')),
    name        TEXT NOT NULL,
    number      INTEGER NOT NULL CHECK (number > 0),
    run_id      INTEGER NOT NULL REFERENCES run (run_id),  -- the first that made it; its recipe is the version's
    identity    TEXT NOT NULL,             -- fingerprint of all that decides it
    digest      TEXT NOT NULL,
    dataset_id  INTEGER REFERENCES dataset (dataset_id) ON DELETE SET NULL,
    selection_id INTEGER REFERENCES selection (selection_id) ON DELETE SET NULL,
    rows        INTEGER NOT NULL,
    change      TEXT NOT NULL,             -- against the version before it, JSON
    PRIMARY KEY (kind, name, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX version_by_dataset ON version (dataset_id);
CREATE INDEX version_by_selection ON version (selection_id);

CREATE TABLE run_version (                 -- the versions that a run has: those it made, and those it found unchanged
    run_id      INTEGER NOT NULL REFERENCES run (run_id) ON DELETE CASCADE,
    kind        TEXT NOT NULL,
    name        TEXT NOT NULL,
    number      INTEGER NOT NULL,
    folder      TEXT,                      -- where the run exported it
    manifest    TEXT,                      -- sha256 of the export's manifest, which names the digest of every file
    made_by     TEXT,                      -- versions of the programs that wrote it, JSON
    PRIMARY KEY (run_id, kind, name, number),
    FOREIGN KEY (kind, name, number) REFERENCES version (kind, name, number)
) STRICT, WITHOUT ROWID;

ALTER TABLE run ADD COLUMN numbered INTEGER NOT NULL DEFAULT 0;  -- whether what it made has its numbers
