-- Everything durable. `body` columns hold one record each as JSON; the columns beside them are what queries need.
CREATE TABLE jobs (
    id       TEXT PRIMARY KEY NOT NULL,
    sequence INTEGER NOT NULL UNIQUE,
    request  TEXT UNIQUE,
    spec     TEXT NOT NULL, -- the draft as it was submitted
    body     TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE phases (
    job   TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    phase INTEGER NOT NULL,
    body  TEXT NOT NULL,
    PRIMARY KEY (job, phase)
) STRICT, WITHOUT ROWID;

CREATE TABLE checkpoints (
    job     TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    phase   INTEGER NOT NULL,
    step    INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    body    TEXT NOT NULL,
    PRIMARY KEY (job, phase, step, attempt)
) STRICT, WITHOUT ROWID;

-- What happened, oldest first. Ids are never used again, so that a follower can go on from one.
CREATE TABLE events (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    job     TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    at_ms   INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    phase   TEXT,
    attempt INTEGER NOT NULL,
    message TEXT NOT NULL
) STRICT;
CREATE INDEX events_of_job ON events (job, id);

-- Measurements. An attempt that repeats a step replaces them.
CREATE TABLE metrics (
    job   TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    phase INTEGER NOT NULL,
    name  TEXT NOT NULL,
    step  INTEGER NOT NULL,
    value REAL NOT NULL,
    PRIMARY KEY (job, phase, name, step)
) STRICT, WITHOUT ROWID;
