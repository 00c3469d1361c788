-- What is remembered of workers whether or not they are there: who keeps ranks off them, and what they were blamed for.
CREATE TABLE workers (
    id   TEXT PRIMARY KEY NOT NULL,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;
